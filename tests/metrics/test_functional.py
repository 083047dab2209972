"""Metrics against hand-computed values and an independent NumPy reference."""

import math

import numpy as np
import pytest
import torch

from depth_distill.metrics import METRIC_NAMES, depth_metrics_per_image


def reference(prediction, target):
    """Independent implementation of the benchmarks' formulas, for the valid pixels of one image."""
    p, t = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    d = np.log(p) - np.log(t)
    ratio = np.maximum(p / t, t / p)
    return {
        "abs_rel": np.mean(np.abs(p - t) / t),
        "sq_rel": np.mean((p - t) ** 2 / t),
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        "rmse_log": np.sqrt(np.mean(d**2)),
        "log10": np.mean(np.abs(np.log10(p) - np.log10(t))),
        "silog": np.sqrt(np.var(d)) * 100,
        **{f"delta{k}": np.mean(ratio < 1.25**k) for k in (1, 2, 3)},
    }


def maps(batch=4, height=9, width=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target_m = 0.5 + 14 * torch.rand(batch, 1, height, width, generator=generator)
    prediction_m = target_m * (0.6 + 0.9 * torch.rand(batch, 1, height, width, generator=generator))
    return prediction_m, target_m, torch.rand(batch, 1, height, width, generator=generator) > 0.4


def test_every_metric_against_the_reference():
    prediction_m, target_m, valid = maps()
    rows = depth_metrics_per_image(prediction_m, target_m, valid)
    assert rows.dtype == torch.float64
    for i, row in enumerate(rows):
        expected = reference(prediction_m[i][valid[i]].numpy(), target_m[i][valid[i]].numpy())
        assert dict(zip(METRIC_NAMES, row.tolist(), strict=True)) == pytest.approx(expected, rel=1e-9)


def test_by_hand():
    p, t = (torch.tensor(x).view(1, 1, 1, 2) for x in ([2.0, 4.0], [1.0, 4.0]))
    row = dict(zip(METRIC_NAMES, depth_metrics_per_image(p, t, t > 0)[0].tolist(), strict=True))
    assert row["abs_rel"] == pytest.approx(0.5)
    assert row["sq_rel"] == pytest.approx(0.5)
    assert row["rmse"] == pytest.approx(math.sqrt(0.5))
    assert row["silog"] == pytest.approx(50 * math.log(2))  # standard deviation of (ln 2, 0), times 100
    assert [row[f"delta{k}"] for k in (1, 2, 3)] == [0.5, 0.5, 0.5]  # 1.25^3 = 1.95 < 2


def test_invalid_pixels_do_not_count_and_may_hold_anything():
    prediction_m, target_m, valid = maps()
    expected = depth_metrics_per_image(prediction_m, target_m, valid)
    for filling in (0.0, float("nan"), float("inf")):
        filled = torch.where(valid, target_m, filling)
        assert torch.equal(depth_metrics_per_image(prediction_m, filled, valid), expected)


def test_an_image_without_valid_pixels_is_nan():
    prediction_m, target_m, valid = maps()
    valid[2] = False
    rows = depth_metrics_per_image(prediction_m, target_m, valid)
    assert rows.isnan().all(dim=1).tolist() == [False, False, True, False]


def test_a_perfect_prediction():
    _, target_m, valid = maps()
    rows = depth_metrics_per_image(target_m, target_m, valid)
    assert bool((rows[:, :6] == 0).all())
    assert bool((rows[:, 6:] == 1).all())


def test_several_sets_of_pixels_are_those_of_each_alone():
    prediction_m, target_m, valid = maps()
    near, nothing = valid & (target_m < 5), torch.zeros_like(valid)
    rows = depth_metrics_per_image(prediction_m, target_m, torch.cat([valid, near, nothing], dim=1))
    assert rows.shape == (4, 3 * len(METRIC_NAMES))
    for each, found in zip((valid, near, nothing), rows.split(len(METRIC_NAMES), dim=1), strict=True):
        alone = depth_metrics_per_image(prediction_m, target_m, each)
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=0, equal_nan=True)


def test_sets_may_overlap_and_a_pixel_of_one_may_be_bad_for_none():
    prediction_m, target_m, valid = maps()
    expected = depth_metrics_per_image(prediction_m, target_m, torch.cat([valid, valid], dim=1))
    filled = torch.where(valid, target_m, float("nan"))
    assert torch.equal(depth_metrics_per_image(prediction_m, filled, torch.cat([valid, valid], dim=1)), expected)


def test_an_image_whose_prediction_is_nan_is_infinitely_wrong():
    prediction_m, target_m, valid = maps()
    expected = depth_metrics_per_image(prediction_m, target_m, valid)
    prediction_m[1][valid[1]] = torch.cat([torch.tensor([float("nan")]), prediction_m[1][valid[1]][1:]])
    rows = depth_metrics_per_image(prediction_m, target_m, valid)
    assert bool((rows[1, :6] == float("inf")).all())  # NaN would be left out of the average over images
    assert bool((rows[1, 6:] <= expected[1, 6:]).all())  # one pixel more is not within 1.25^k
    assert torch.equal(rows[[0, 2, 3]], expected[[0, 2, 3]])
    prediction_m, target_m, valid = maps()
    prediction_m[~valid] = float("nan")
    assert torch.equal(depth_metrics_per_image(prediction_m, target_m, valid), expected)
