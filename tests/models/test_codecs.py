"""Codecs: exact ends, known values, round trips, step sizes."""

import math

import pytest
import torch

from depth_distill.codecs import HostPair
from depth_distill.errors import ConfigError
from depth_distill.models.codecs import (
    DepthCodec,
    IntegerFractionalCodec,
    SingleCodec,
    ThermometerCodec,
    carry_errors,
)
from depth_distill.types import DepthRange

RANGE = DepthRange(0.5, 15.0)


@pytest.mark.parametrize("encoding", ["linear", "inverse", "log"])
def test_codes_zero_and_one_are_the_ends_of_the_range(encoding):
    depth_m = SingleCodec(RANGE, encoding).decode(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    assert depth_m.flatten().tolist() == pytest.approx([0.5, 15.0], rel=1e-6)


@pytest.mark.parametrize(
    ("encoding", "middle_m"),
    [
        ("linear", 7.75),  # (0.5 + 15) / 2
        ("inverse", 2 / (1 / 0.5 + 1 / 15)),  # harmonic mean
        ("log", math.sqrt(0.5 * 15)),  # geometric mean
    ],
)
def test_the_middle_code_is_the_mean_of_its_kind(encoding, middle_m):
    depth_m = SingleCodec(RANGE, encoding).decode(torch.full((1, 1, 1, 1), 0.5))
    assert depth_m.item() == pytest.approx(middle_m, rel=1e-6)


@pytest.mark.parametrize("encoding", ["linear", "inverse", "log"])
def test_decode_inverts_encode_and_rises_with_the_code(encoding):
    codec = SingleCodec(RANGE, encoding)
    depth_m = torch.linspace(0.5, 15, 1000).view(1, 1, 10, 100)
    codes = codec.encode(depth_m)
    assert codes.min() >= 0
    assert codes.max() <= 1 + 1e-6
    assert bool((codes.flatten().diff() > 0).all())
    torch.testing.assert_close(codec.decode(codes), depth_m, rtol=1e-4, atol=0)  # float32 through exp or 1/x


def test_depth_outside_the_range_is_clamped():
    codes = SingleCodec(RANGE, "linear").encode(torch.tensor([0.0, 20.0]).view(1, 1, 1, 2))
    assert codes.flatten().tolist() == [0.0, 1.0]


def test_the_step_of_eight_bits_is_what_the_documentation_says():
    codes = torch.arange(256).view(1, 1, 1, 256) / 255
    linear_mm = SingleCodec(RANGE, "linear").decode(codes).flatten().diff() * 1000
    assert linear_mm.mean().item() == pytest.approx(56.9, abs=0.05)
    log_m = SingleCodec(RANGE, "log").decode(codes).flatten()
    assert (log_m[1:] / log_m[:-1] - 1).mean().item() == pytest.approx(0.0134, abs=1e-4)


def test_an_unknown_encoding_names_the_choices():
    with pytest.raises(ConfigError, match="linear, inverse, log.*'disparity'"):
        SingleCodec(RANGE, "disparity")


EVERY = [
    *(SingleCodec(RANGE, encoding) for encoding in ("linear", "inverse", "log")),
    ThermometerCodec(RANGE, "log", 4),
    ThermometerCodec(RANGE, "inverse", 4, "logit"),
    IntegerFractionalCodec(RANGE),
    IntegerFractionalCodec(RANGE, "sum", "floor"),
    IntegerFractionalCodec(RANGE, "round", "floor", "triangle"),
    DepthCodec(HostPair(RANGE, "inverse")),
    DepthCodec(HostPair(RANGE, "log", spacing="logit")),
    DepthCodec(HostPair(RANGE, "linear", spacing="metres")),
]


@pytest.mark.parametrize("codec", EVERY, ids=str)
def test_the_gradient_of_decode_is_its_slope_and_training_gets_it(codec):
    # One depth inside each whole part and code, where rounding does not interfere.
    depth_m = torch.linspace(0.63, 14.13, 28).view(1, 1, 4, 7)
    codes = codec.encode(depth_m).requires_grad_()
    codec.decode(codes).sum().backward()
    step = 2e-3
    last = codes.shape[1] - 1 if codes.shape[1] == 2 else None  # of two parts, the fraction; the integer is rounded
    with torch.no_grad():
        moved = [torch.zeros_like(codes), torch.zeros_like(codes)]
        if last is not None:
            moved[0][:, last], moved[1][:, last] = step, -step
            expected = codes.grad[:, last : last + 1]
        else:
            active = (codes > step) & (codes < 1 - step)
            moved[0], moved[1] = step * active, -step * active
            expected = (codes.grad * active).sum(1, keepdim=True)
        found = (codec.decode(codes + moved[0]) - codec.decode(codes + moved[1])) / (2 * step)
    # Central differences in float32: 15 m * 6e-8 / 2e-3 = 5e-4 m of rounding, and curvature.
    torch.testing.assert_close(expected, found, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("decoder", ["sum", "round", "unwrap"])
def test_every_decoder_passes_a_gradient_to_both_parts(decoder):
    codec = IntegerFractionalCodec(RANGE, decoder, "floor")
    codes = codec.encode(torch.full((1, 1, 2, 2), 3.4)).requires_grad_()
    codec.decode(codes).sum().backward()
    assert codes.grad[:, 0].unique().tolist() == [15.0]
    assert codes.grad[:, 1].unique().tolist() == [1.0]


def test_targets_carry_no_gradient_and_codes_of_any_precision_decode_in_float32():
    depth_m = torch.full((1, 1, 2, 2), 3.4, dtype=torch.float64, requires_grad=True)
    codes = SingleCodec(RANGE).encode(depth_m)
    assert not codes.requires_grad
    assert SingleCodec(RANGE).decode(codes.half()).dtype == torch.float32


def test_carries_are_counted_where_there_is_a_whole_part():
    codec = IntegerFractionalCodec(RANGE, "round", "floor")
    depth_m = torch.tensor([2.3, 7.9]).view(1, 1, 1, 2)
    codes = codec.encode(depth_m)
    codes[..., 0, 1] += torch.tensor([1 / 15, 0])
    assert carry_errors(codec, codes, depth_m).flatten().tolist() == [False, True]
    assert carry_errors(SingleCodec(RANGE), codes[:, :1], depth_m) is None
