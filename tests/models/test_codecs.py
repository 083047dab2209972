"""Codecs: exact ends, known values, round trips, step sizes."""

import math

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.models.codecs import SingleCodec
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
