import pytest
import torch

from depth_distill.metrics import DepthMetrics
from depth_distill.metrics.alignment import align
from depth_distill.types import DepthRange

RANGE = DepthRange(0.5, 15.0)
TRUE = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).expand(2, 1, 2, 2) * torch.tensor([1.0, 1.5]).view(2, 1, 1, 1)
ALL = torch.ones_like(TRUE, dtype=torch.bool)


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("median", TRUE * torch.tensor([0.1, 7.0]).view(2, 1, 1, 1)),
        ("scale_and_shift", TRUE * 0.3 + 2),
        ("inverse_scale_and_shift", 1 / (5 / TRUE + 3)),
    ],
)
def test_depth_of_the_right_shape_is_made_exact_image_by_image(how, found):
    torch.testing.assert_close(align(found, TRUE, ALL, how, RANGE), TRUE, rtol=1e-5, atol=0)


def test_metric_depth_stays_as_it_is():
    assert align(TRUE * 3, TRUE, ALL, "none", RANGE) is not TRUE
    assert torch.equal(align(TRUE * 3, TRUE, ALL, "none", RANGE), TRUE * 3)


def test_pixels_without_ground_truth_do_not_count():
    valid = ALL.clone()
    valid[..., 1, 1] = False
    found = TRUE * 2
    found[..., 1, 1] = 1e6

    aligned = align(found, TRUE, valid, "scale_and_shift", RANGE)

    torch.testing.assert_close(aligned[valid], TRUE[valid], rtol=1e-5, atol=0)
    assert aligned[0, 0, 1, 1] == 15.0


def test_an_image_without_ground_truth_stays_as_it_is():
    assert torch.equal(align(TRUE, TRUE, ~ALL, "median", RANGE), TRUE)


def test_a_constant_prediction_becomes_the_mean():
    aligned = align(torch.full_like(TRUE, 3.0), TRUE, ALL, "scale_and_shift", RANGE)

    torch.testing.assert_close(aligned[0], TRUE[:1].mean().expand(1, 2, 2))


def test_metrics_say_that_depth_is_aligned():
    metrics = DepthMetrics(RANGE, (), alignment="median")
    metrics.update(TRUE * 5, TRUE, ALL)

    assert float(metrics.compute()["abs_rel"]) < 1e-6
    assert metrics.protocol == "per-image mean, depth 0.5-15 m, aligned by median"
