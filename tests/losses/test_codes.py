"""Losses on codes: zero at the target, what they tell apart, and nothing from invalid pixels."""

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.losses import CodeL1Loss, ConsistencyLoss, FractionLoss, IntegerLoss
from depth_distill.models import IntegerFractionalCodec, ThermometerCodec
from depth_distill.types import DepthRange

RANGE = DepthRange(0.5, 15.0)
CODECS = {
    "coarse, sawtooth": IntegerFractionalCodec(RANGE),
    "coarse, triangle": IntegerFractionalCodec(RANGE, fraction="triangle"),
    "floor, sawtooth": IntegerFractionalCodec(RANGE, "round", "floor"),
    "floor, triangle": IntegerFractionalCodec(RANGE, "round", "floor", "triangle"),
}


def terms(codec):
    host = codec.host
    return {
        "l1": CodeL1Loss(),
        "integer": IntegerLoss(),
        "fraction": FractionLoss(host.fraction),
        "consistency": ConsistencyLoss(host.metres, host.integer, host.fraction),
    }


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    depth_m = 0.5 + 14.5 * torch.rand(2, 1, 8, 9, generator=generator)
    return depth_m, torch.rand(2, 1, 8, 9, generator=generator) > 0.3


@pytest.mark.parametrize("name", CODECS)
def test_zero_at_the_target_and_positive_elsewhere(name):
    codec = CODECS[name]
    depth_m, valid = batch()
    target = codec.encode(depth_m)
    wrong = (target + 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    for term, loss in terms(codec).items():
        assert loss(target, target, valid) < 3e-6, term  # 15 * d / 15 in float32
        assert loss(wrong, target, valid) > 1e-3, term


@pytest.mark.parametrize("name", CODECS)
def test_invalid_pixels_change_neither_loss_nor_gradient(name):
    codec = CODECS[name]
    depth_m, valid = batch()
    codes = torch.rand(2, 2, 8, 9, generator=torch.Generator().manual_seed(3)).requires_grad_()
    target = codec.encode(depth_m)
    broken = torch.where(valid, target, torch.nan)
    for term, loss in terms(codec).items():
        found = [(loss(codes, each, valid), each) for each in (target, broken)]
        gradients = [torch.autograd.grad(value, codes)[0] for value, _ in found]
        assert found[0][0] == found[1][0], term
        assert torch.equal(*gradients), term
        assert bool((gradients[0].abs().sum(1, keepdim=True)[~valid] == 0).all()), term
        assert loss(codes, target, torch.zeros_like(valid)) == 0, term


def test_a_sawtooth_is_compared_the_short_way_round():
    valid = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    codes = torch.tensor([0.2, 0.98]).view(1, 2, 1, 1).requires_grad_()
    target = torch.tensor([0.2, 0.02]).view(1, 2, 1, 1)
    loss = FractionLoss()(codes, target, valid)
    assert loss.item() == pytest.approx(0.04, abs=1e-6)
    loss.backward()
    assert codes.grad[0, 1].item() == -1  # up, through 1, and not down through the whole range
    assert FractionLoss("triangle")(codes, target, valid).item() == pytest.approx(0.96, abs=1e-6)


@pytest.mark.parametrize("name", CODECS)
def test_consistency_is_the_distance_of_integer_and_fraction(name):
    codec = CODECS[name]
    valid = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    codes = codec.encode(torch.full((1, 1, 1, 1), 3.3))
    loss = ConsistencyLoss(15, codec.host.integer, codec.host.fraction)
    for off_m in (0.1, 0.2):
        moved = codes + torch.tensor([off_m / 15, 0]).view(1, 2, 1, 1)
        assert loss(moved, codes, valid).item() == pytest.approx(off_m, abs=1e-5)


@pytest.mark.parametrize("name", CODECS)
def test_descent_on_the_terms_together_finds_the_depth(name):
    codec = CODECS[name]
    torch.manual_seed(0)
    depth_m, valid = batch()
    target = codec.encode(depth_m)
    logits = (0.5 * torch.randn(2, 2, 8, 9)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    losses = [IntegerLoss(), FractionLoss(codec.host.fraction)]
    for _ in range(300):
        loss = 15 * losses[0](logits.sigmoid(), target, valid) + losses[1](logits.sigmoid(), target, valid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error_m = (codec.decode(logits.sigmoid()) - depth_m).abs()[valid]
    assert error_m.median() < 0.05


def test_a_thermometer_is_taught_code_by_code():
    codec = ThermometerCodec(RANGE, "log", 4)
    depth_m, valid = batch()
    target = codec.encode(depth_m)
    off = target.clone()
    off[:, 2] += 0.4
    assert CodeL1Loss()(off, target, valid).item() == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FractionLoss("saw"), "fraction must be one of sawtooth, triangle, got 'saw'"),
        (lambda: ConsistencyLoss(integer="ceil"), "integer must be one of floor, coarse, got 'ceil'"),
        (lambda: ConsistencyLoss(0), "metres must be at least 1, got 0"),
    ],
)
def test_what_is_unknown_names_the_choices(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
