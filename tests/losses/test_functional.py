"""Losses: hand-computed values, invariances, masks, and gradients that never turn into NaN."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from depth_distill.losses import functional as F

LOSSES = {
    "l1": F.masked_l1,
    "mse": F.masked_mse,
    "log_l1": F.log_l1,
    "relative_l1": F.relative_l1,
    "silog": F.silog,
    "berhu": F.berhu,
    "gradient_log": F.gradient_matching,
    "gradient_linear": partial(F.gradient_matching, space="linear"),
    "ssi": F.scale_and_shift_invariant,
    "ssi_linear": partial(F.scale_and_shift_invariant, space="linear"),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def maps(batch=3, height=12, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target_m = 0.5 + 10 * torch.rand(batch, 1, height, width, generator=generator)
    prediction_m = target_m * (0.7 + 0.6 * torch.rand(batch, 1, height, width, generator=generator))
    valid = torch.rand(batch, 1, height, width, generator=generator) > 0.3
    return prediction_m, target_m, valid


def pair(prediction, target):
    """One image of one row."""
    p, t = (torch.tensor(x, dtype=torch.float64).view(1, 1, 1, -1) for x in (prediction, target))
    return p, t, torch.ones_like(p, dtype=torch.bool)


def test_l1_and_mse_by_hand():
    assert F.masked_l1(*pair([1.0, 4.0], [2.0, 2.0])).item() == pytest.approx(1.5)
    assert F.masked_mse(*pair([1.0, 4.0], [2.0, 2.0])).item() == pytest.approx(2.5)


def test_log_l1_by_hand():
    assert F.log_l1(*pair([1.0, 4.0], [2.0, 2.0])).item() == pytest.approx(math.log(2))


def test_relative_l1_by_hand():
    assert F.relative_l1(*pair([1.0, 5.0], [2.0, 4.0])).item() == pytest.approx((0.5 + 0.25) / 2)


def test_silog_by_hand():
    # d = (ln 2, 0): mean of squares ln(2)^2 / 2, square of the mean ln(2)^2 / 4.
    expected = math.log(2) * math.sqrt(1 / 2 - 0.85 / 4)
    assert F.silog(*pair([2.0, 1.0], [1.0, 1.0])).item() == pytest.approx(expected)


def test_berhu_by_hand():
    # Errors 1 and 5, c = 0.2 * 5 = 1: below c it is L1, above (25 + 1) / 2 = 13.
    assert F.berhu(*pair([2.0, 6.0], [1.0, 1.0])).item() == pytest.approx((1 + 13) / 2)


def test_gradient_matching_by_hand():
    # Error 0, 1, 3, 3 along a row, one scale, no vertical pair: mean(|1|, |2|, |0|) = 1.
    loss = F.gradient_matching(*pair([1.0, 2.0, 4.0, 4.0], [1.0, 1.0, 1.0, 1.0]), scales=1, space="linear")
    assert loss.item() == pytest.approx(1.0)


def test_gradient_matching_sees_edges_and_not_offsets():
    _, target_m, valid = maps()
    assert F.gradient_matching(target_m + 3, target_m, valid, space="linear").item() == pytest.approx(0, abs=1e-5)
    assert F.gradient_matching(target_m * 3, target_m, valid, space="log").item() == pytest.approx(0, abs=1e-5)


def test_ssi_against_least_squares_in_numpy():
    prediction_m, target_m, valid = maps(batch=1)
    p, t = (1 / x[valid].double().numpy() for x in (prediction_m, target_m))
    solution, *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], axis=1), t, rcond=None)
    expected = np.abs(solution[0] * p + solution[1] - t).mean() / np.abs(t - t.mean()).mean()
    loss = F.scale_and_shift_invariant(prediction_m.double(), target_m.double(), valid)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@every_loss
def test_zero_when_identical_and_positive_when_not(loss):
    prediction_m, target_m, valid = maps()
    assert loss(target_m, target_m, valid).item() == pytest.approx(0, abs=1e-5)
    assert loss(prediction_m, target_m, valid) > 0.01


@every_loss
def test_a_perfect_prediction_has_a_finite_gradient(loss):
    _, target_m, valid = maps()
    prediction_m = target_m.clone().requires_grad_()
    loss(prediction_m, target_m, valid).backward()
    assert bool(prediction_m.grad.isfinite().all())


@every_loss
def test_invalid_pixels_have_no_effect_whatever_they_hold(loss):
    prediction_m, target_m, valid = maps()
    results = []
    for filling in (0.0, float("nan"), float("inf"), -5.0):
        leaf = prediction_m.clone().requires_grad_()
        value = loss(leaf, torch.where(valid, target_m, filling), valid)
        value.backward()
        results.append((value.item(), leaf.grad))
    for value, gradient in results:
        assert value == pytest.approx(results[0][0], rel=1e-6)
        assert bool(gradient.isfinite().all())
        assert bool((gradient[~valid] == 0).all())


@every_loss
def test_no_valid_pixel_gives_zero_and_zero_gradient(loss):
    prediction_m, target_m, valid = maps()
    prediction_m.requires_grad_()
    value = loss(prediction_m, target_m, torch.zeros_like(valid))
    value.backward()
    assert value.item() == 0
    assert bool((prediction_m.grad == 0).all())


@every_loss
def test_images_weigh_equally_whatever_the_batch(loss):
    prediction_m, target_m, valid = maps()
    valid[1] = False
    valid[1, :, 2:5, 2:5] = True  # few valid pixels weigh as much as many
    separate = [loss(prediction_m[i : i + 1], target_m[i : i + 1], valid[i : i + 1]).item() for i in range(3)]
    assert loss(prediction_m, target_m, valid).item() == pytest.approx(sum(separate) / 3, rel=1e-5)


@every_loss
def test_an_image_without_depth_does_not_dilute_the_others(loss):
    prediction_m, target_m, valid = maps()
    valid[1] = False
    others = [0, 2]
    expected = loss(prediction_m[others], target_m[others], valid[others]).item()
    assert loss(prediction_m, target_m, valid).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["l1", "mse", "log_l1", "silog", "berhu", "ssi", "ssi_linear"])
def test_resolution_does_not_matter(name):
    prediction_m, target_m, valid = maps()
    large = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (prediction_m, target_m, valid)]
    small = LOSSES[name](prediction_m, target_m, valid).item()
    assert LOSSES[name](*large).item() == pytest.approx(small, rel=1e-5)


def test_silog_without_focus_is_rms_log_and_with_full_focus_ignores_scale():
    prediction_m, target_m, valid = maps()
    error = (prediction_m.log() - target_m.log())[:1][valid[:1]]
    first = [x[:1] for x in (prediction_m, target_m, valid)]
    assert F.silog(*first, variance_focus=0.0).item() == pytest.approx(error.square().mean().sqrt().item(), rel=1e-5)
    scaled = F.silog(7 * prediction_m, target_m, valid, variance_focus=1.0).item()
    assert scaled == pytest.approx(F.silog(prediction_m, target_m, valid, variance_focus=1.0).item(), rel=1e-4)


@pytest.mark.parametrize("space", ["linear", "log", "inverse"])
def test_ssi_ignores_scale_and_shift_in_its_space(space):
    into = {"linear": lambda x: x, "log": torch.log, "inverse": torch.reciprocal}[space]
    back = {"linear": lambda x: x, "log": torch.exp, "inverse": torch.reciprocal}[space]
    prediction_m, target_m, valid = (x.double() if x.is_floating_point() else x for x in maps())
    moved = back(0.5 * into(prediction_m) + 2.0)
    expected = F.scale_and_shift_invariant(prediction_m, target_m, valid, space=space).item()
    assert F.scale_and_shift_invariant(moved, target_m, valid, space=space).item() == pytest.approx(expected, rel=1e-6)


@every_loss
def test_gradients_are_those_of_finite_differences(loss):
    prediction_m, target_m, valid = (x.double() if x.is_floating_point() else x for x in maps(2, 5, 6))
    # berhu's threshold carries no gradient, so the pixel of the largest error, which sets it, is left out.
    worst = torch.where(valid, (prediction_m - target_m).abs(), 0.0).flatten(1).argmax(1)

    def free(x):
        held = prediction_m.flatten(1).clone()
        moved = x.flatten(1)
        keep = torch.ones_like(moved, dtype=torch.bool)
        if loss is F.berhu:
            keep[torch.arange(2), worst] = False
        return loss(torch.where(keep, moved, held).view_as(x), target_m, valid)

    assert torch.autograd.gradcheck(free, prediction_m.clone().requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        (F.silog, {"variance_focus": 1.5}),
        (F.berhu, {"threshold": 0.0}),
        (F.gradient_matching, {"scales": 0}),
        (F.gradient_matching, {"space": "inverse"}),
        (F.scale_and_shift_invariant, {"space": "disparity"}),
    ],
)
def test_arguments_outside_their_domain_are_refused_with_their_value(loss, wrong):
    with pytest.raises(ValueError, match=str(*wrong.values())):
        loss(*maps(), **wrong)
