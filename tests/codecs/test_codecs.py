"""All codecs without torch: bits, round trips, ends, invalid depth, steps, and two-part decoders."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from depth_distill.codecs import (
    DepthRange,
    HostIntegerFractional,
    HostPair,
    HostSingle,
    HostTable,
    HostThermometer,
)
from depth_distill.errors import ConfigError

RANGE = DepthRange(0.5, 15.0)
DENSE_M = np.linspace(0.5, 15, 400_001, dtype=np.float32).reshape(1, 1, -1)
SINGLE = [HostSingle(RANGE, encoding) for encoding in ("linear", "inverse", "log")]
THERMOMETERS = [
    HostThermometer(RANGE, encoding, num_codes, spacing)
    for encoding in ("linear", "log")
    for num_codes in (2, 8, 16)
    for spacing in ("uniform", "logit")
]
TWO_PART = [
    *HostIntegerFractional(RANGE, "sum", "floor").decoders,
    *HostIntegerFractional(RANGE, "round", "floor", "triangle").decoders,
    HostIntegerFractional(RANGE),
    HostIntegerFractional(RANGE, fraction="triangle"),
]
PAIRS = [
    HostPair(RANGE, "log", 15),
    HostPair(RANGE, "inverse"),
    HostPair(RANGE, "log", 16, "logit"),
    HostPair(RANGE, "linear", spacing="metres"),
    HostPair(DepthRange(2.5, 9.3), "linear", spacing="metres"),
]
TABLES = [
    HostTable(each, [np.linspace(0.1, 0.9, 256).tolist()] * each.channels) for each in (SINGLE[1], THERMOMETERS[3])
]
EVERY = [*SINGLE, *THERMOMETERS, *TWO_PART, *PAIRS[:-1]]  # the last has another range


def rounded(codes, bits=8):
    steps = 2**bits - 1
    return np.rint(codes * steps) / np.float32(steps)


def error_mm(codec, codes, depth_m):
    return 1000 * np.abs(codec.decode(codes) - depth_m)


def test_a_device_needs_no_torch():
    script = (
        "import sys, numpy; from depth_distill.codecs import DepthRange, HostThermometer; "
        "codec = HostThermometer(DepthRange(0.5, 15.0)); "
        "codec.decode(codec.encode(numpy.ones((1, 2, 3), numpy.float32))); "
        "print([name for name in ('torch', 'timm', 'pytorch_lightning', 'matplotlib') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("codec", [*EVERY, *TABLES], ids=str)
def test_numpy_and_torch_agree_to_the_bit(codec):
    generator = np.random.default_rng(0)
    codes = codec.encode(DENSE_M)
    assert np.array_equal(
        codes.view(np.int32), codec.encode_with(torch, torch.from_numpy(DENSE_M)).numpy().view(np.int32)
    )
    any_codes = generator.random((codec.channels, 1, 300_000), dtype=np.float32)
    of_8_bits = np.tile((np.arange(256) / 255).astype(np.float32), (codec.channels, 1))
    of_8_bits = np.stack([generator.permutation(row) for row in of_8_bits])[:, None]
    for each in (codes, any_codes, of_8_bits):
        other = torch.from_numpy(np.ascontiguousarray(each))
        assert np.array_equal(codec.decode(each).view(np.int32), codec.decode_with(torch, other).numpy().view(np.int32))


@pytest.mark.parametrize("codec", EVERY, ids=str)
def test_decode_inverts_encode(codec):
    codes = codec.encode(DENSE_M)
    assert codes.shape == (codec.channels, 1, DENSE_M.size)
    assert 0 <= codes.min() <= codes.max() <= 1
    # The logit spacing cuts 1e-5 of the code range off at either end: in linear that is 1e-5 * 14.5 m of 0.5 m.
    tolerance = 3e-4 if getattr(codec, "spacing", "uniform") == "logit" else 3e-6
    known = getattr(codec, "decoder", None) == "unwrap" and codec.integer == "floor"
    wrong = np.abs(codec.decode(codes) / DENSE_M - 1) > tolerance
    # Exactly at a whole metre this decoder is undecided: i + 1/2 - f is a half.
    assert np.all(DENSE_M[wrong] % 1 == 0) if known else not wrong.any()


@pytest.mark.parametrize("codec", EVERY, ids=str)
def test_every_number_has_a_code_and_nan_codes_stay_visible(codec):
    strange = np.float32([np.nan, 0, -3, np.inf, 1e30, 0.5, 15]).reshape(1, 1, -1)
    codes = codec.encode(strange)
    near, far = codes[..., 5], codes[..., 6]
    assert np.isfinite(codes).all()
    assert (codes[..., :3] == near[..., None]).all()
    assert (codes[..., 3:5] == far[..., None]).all()
    assert np.isnan(codec.decode(np.full((codec.channels, 1, 1), np.nan))).all()
    beyond = codec.decode(np.stack([np.full((codec.channels, 1), v) for v in (-1.0, 2.0)], axis=-1))
    assert beyond.min() >= 0.5
    assert beyond.max() <= 15


@pytest.mark.parametrize("codec", [*SINGLE, *THERMOMETERS, *PAIRS[:-1]], ids=str)
def test_rounding_moves_depth_by_half_a_step_at_most(codec):
    codes = codec.encode(DENSE_M)
    found = error_mm(codec, rounded(codes), codec.decode(codes))
    steps = codec.step_mm(DENSE_M)
    # Within a step the depth is not halfway at half the code: up to 1.4 times where it is curved most (inverse).
    assert (found <= 0.75 * steps + 0.03).all()
    assert found.max() > 0.45 * steps.max()


def test_the_user_s_arithmetic():
    at = np.float32([1.0, 7.0])
    linear, fraction = HostSingle(RANGE, "linear"), HostIntegerFractional(RANGE, "round", "floor")
    assert linear.step_mm(at) == pytest.approx(56.9, abs=0.05)
    assert linear.worst_error_mm(at) == pytest.approx(28.4, abs=0.05)
    assert fraction.step_mm(at) == pytest.approx(3.9, abs=0.05)
    assert fraction.worst_error_mm(at) == pytest.approx(1.96, abs=0.005)
    # The plain sum keeps the integer code's own step, 15 m / 255, and half of that and of the fraction's as error.
    plain = HostIntegerFractional(RANGE, "sum", "floor")
    assert plain.step_mm(at) == pytest.approx(58.8, abs=0.05)
    assert plain.worst_error_mm(at) == pytest.approx(31.4, abs=0.05)


@pytest.mark.parametrize("codec", TWO_PART, ids=str)
def test_what_a_decoder_delivers_where_the_integer_is_not_exact(codec):
    codes = codec.encode(DENSE_M)
    off = np.random.default_rng(0).uniform(-0.2, 0.2, codes[0].shape) / 15
    codes[0] = np.clip(codes[0] + off, 0, 1)
    before_m = codec.decode(codes)
    wrong = codec.carry_errors(rounded(codes), before_m)
    found = error_mm(codec, rounded(codes), before_m)[~wrong]
    assert found.max() <= codec.worst_error_mm(np.float32(1.0)) + 1.1  # carry_errors allows a millimetre
    assert found.max() > 0.95 * codec.worst_error_mm(np.float32(1.0))


def test_only_the_round_and_unwrap_that_fit_their_integer_never_carry():
    rates = {}
    for codec in TWO_PART:
        codes = rounded(codec.encode(DENSE_M))
        rates[str(codec)] = float(codec.carry_errors(codes, DENSE_M).mean())
    assert rates["integer/fraction (floor, sawtooth), round"] == 0
    assert rates["integer/fraction (coarse, sawtooth), unwrap"] == 0
    assert rates["integer/fraction (floor, triangle), round"] == 0
    # A fraction that rounds to 1 belongs to two metres alike.
    assert 0.001 < rates["integer/fraction (floor, sawtooth), unwrap"] < 0.003
    # The coarse code decides on which side of a whole metre a depth lies, and is 29 mm off at most.
    assert 0.02 < rates["integer/fraction (coarse, triangle), unwrap"] < 0.03


def test_a_wrong_carry_costs_a_metre_and_with_a_triangle_a_reflection():
    depth_m = np.float32([2.97]).reshape(1, 1, 1)
    for fraction, expected_m in (("sawtooth", 3.97), ("triangle", 3.03)):
        codec = HostIntegerFractional(RANGE, "round", "floor", fraction)
        codes = codec.encode(depth_m)
        codes[0] = 3 / 15
        assert codec.decode(codes).item() == pytest.approx(expected_m, abs=1e-5)
        assert codec.carry_errors(codes, depth_m).all()
    plain = HostIntegerFractional(RANGE, "sum", "floor")
    codes = plain.encode(depth_m)
    assert not plain.carry_errors(codes, depth_m).any()
    codes[0] += 0.6 / 15
    assert plain.carry_errors(codes, depth_m).all()


def test_unwrap_takes_half_a_metre_of_disagreement_in_silence():
    codec = HostIntegerFractional(RANGE)
    codes = codec.encode(DENSE_M)
    codes[0] = np.clip(codes[0] + 0.49 / 15, 0, 1)
    inside = DENSE_M < 14.5
    np.testing.assert_allclose(codec.decode(codes)[inside], DENSE_M[inside], atol=2e-6)


def test_a_triangle_is_continuous_where_a_sawtooth_jumps():
    around = np.float32([2.999, 3.001]).reshape(1, 1, 2)
    jumps = {
        f: abs(np.diff(HostIntegerFractional(RANGE, fraction=f).encode(around)[1]).item())
        for f in ("sawtooth", "triangle")
    }
    assert jumps["sawtooth"] == pytest.approx(0.998, abs=1e-5)
    assert jumps["triangle"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("spacing", ["uniform", "logit"])
def test_a_thermometer_fills_one_code_after_the_other(spacing):
    codec = HostThermometer(RANGE, "log", 8, spacing)
    codes = codec.encode(DENSE_M)
    partly = (codes > 0) & (codes < 1)
    assert (partly.sum(axis=0) <= 1).all()
    assert (np.diff(codes, axis=0) <= 0).all()
    assert all(a < b for a, b in pairwise(codec.knots))


def test_a_uniform_thermometer_divides_the_step_and_a_logit_one_nearly_does():
    at = np.float32([0.8, 2.7, 8.0])
    single = HostSingle(RANGE, "log").step_mm(at)
    for num_codes in (2, 4, 8, 16):
        assert HostThermometer(RANGE, "log", num_codes).step_mm(at) == pytest.approx(single / num_codes, rel=0.02)
    assert (HostThermometer(RANGE, "log", 16, "logit").step_mm(at) < single / 10).all()
    assert HostThermometer(RANGE, "log", 2, "logit").step_mm(at)[1] > single[1]  # not worth having


@pytest.mark.parametrize("codec", PAIRS, ids=str)
def test_no_carry_of_a_pair_is_wrong_while_its_integer_is_right_to_half_a_step(codec):
    depth_m = DENSE_M.clip(codec.near_m, codec.far_m)
    codes = codec.encode(depth_m)
    exact_m = codec.decode(codes)
    off = np.random.default_rng(0).uniform(-0.49, 0.49, codes[0].shape) / (codec.num_clips - 1)
    codes[0] = np.clip(codes[0] + off, 0, 1)
    assert np.array_equal(codec.decode(codes), exact_m)
    moved = rounded(codes)
    moved[0] = codes[0]
    assert not codec.carry_errors(moved, depth_m).any()
    assert (1000 * np.abs(codec.decode(moved) - exact_m) <= 0.75 * codec.step_mm(depth_m) + 0.03).all()


def test_a_carry_of_a_pair_mirrors_depth():
    codec = HostPair(RANGE, "linear", spacing="metres")
    depth_m = np.float32([2.6, 2.97]).reshape(1, 1, 2)
    codes = codec.encode(depth_m)
    assert codes.ravel() == pytest.approx([2 / 14, 2 / 14, 0.6, 0.97], abs=1e-6)
    codes[0] = 3 / 14
    assert codec.decode(codes).ravel() == pytest.approx([3.4, 3.03], abs=1e-5)
    assert codec.carry_errors(codes, depth_m).ravel().tolist() == [True, False]  # 6 cm is a network's, too


def test_whole_metres_of_a_pair_begin_at_the_nearest():
    codec = HostPair(DepthRange(2.5, 9.3), "linear", spacing="metres")
    assert codec.num_clips == 8
    assert codec.decode(np.float32([1 / 7, 0.75]).reshape(2, 1, 1)).item() == pytest.approx(3.25)
    assert HostPair(RANGE, "linear", spacing="metres").step_mm(np.float32([7.0])) == pytest.approx(1000 / 255, rel=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HostIntegerFractional(RANGE, "round", "coarse"), "use decoder: unwrap, or integer: floor"),
        (lambda: HostIntegerFractional(RANGE, "sum", "floor", "triangle"), "cannot read fraction: triangle"),
        (lambda: HostIntegerFractional(RANGE, "add"), "decoder must be one of sum, round, unwrap, got 'add'"),
        (lambda: HostThermometer(RANGE, num_codes=6), "num_codes must be one of 2, 4, 8, 16, got 6"),
        (lambda: HostThermometer(RANGE, spacing="odd"), "spacing must be one of uniform, logit, got 'odd'"),
        (lambda: HostPair(RANGE, num_clips=1), "num_clips must be a whole number from 2 to 32, got 1"),
        (lambda: HostPair(RANGE, num_clips=15, spacing="logit"), "num_clips must be even for spacing: logit, got 15"),
        (
            lambda: HostPair(RANGE, "log", spacing="metres"),
            "needs the encoding linear and, .* 15 clips; got log",
        ),
        (lambda: HostPair(RANGE, spacing="odd"), "spacing must be one of uniform, logit, metres, got 'odd'"),
        (lambda: HostSingle(RANGE, "disparity"), "linear, inverse, log.*'disparity'"),
    ],
)
def test_invalid_arguments_are_refused_with_the_valid_ones(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
