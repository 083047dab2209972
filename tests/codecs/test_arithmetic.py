"""Powers and logarithms: the same bits in NumPy and torch, and close to float64 mathematics."""

import math

import numpy as np
import pytest
import torch

from depth_distill.codecs.arithmetic import log2_ratio, logit, power_of_two, saturating_sigmoid, sigmoid

DENSE = np.concatenate(
    [np.linspace(0, 1, 2_000_001), np.arange(256) / 255, np.random.default_rng(0).random(500_000)]
).astype(np.float32)


def ulps(found, exact):
    """Distance in units of the last place of the float32 that is nearest."""
    return np.abs(found.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def same_bits(function, *arrays):
    """The NumPy result, after comparing it with torch's."""
    of_numpy = function(np, *arrays)
    of_torch = function(torch, *map(torch.from_numpy, arrays)).numpy()
    assert of_numpy.dtype == of_torch.dtype == np.float32
    np.testing.assert_array_equal(of_numpy.view(np.int32), of_torch.view(np.int32))
    return of_numpy


@pytest.mark.parametrize("factor", [math.log2(30), math.log2(80 / 0.3), -3.3])
def test_powers_of_two(factor):
    found = same_bits(lambda xp, x: power_of_two(xp, x, factor), DENSE)
    assert ulps(found, np.exp2(DENSE.astype(np.float64) * factor)).max() < 2


@pytest.mark.parametrize("near", [0.3, 0.5, 1.0])
def test_logarithms_also_of_ratios_near_one(near):
    near = np.float32(near)
    values = np.concatenate([near * (1 + 100 * DENSE[1:]), near * (1 + 1e-4 * DENSE[1:])]).astype(np.float32)
    values = values[values > near]
    found = same_bits(log2_ratio, values, np.full_like(values, near))
    assert ulps(found, np.log2(values.astype(np.float64) / np.float64(near))).max() < 4


def test_one_of_a_kind_has_the_logarithm_zero():
    assert log2_ratio(np, np.float32([0.3, 5]), np.float32([0.3, 5])).tolist() == [0, 0]


def test_sigmoid_and_its_inverse():
    x = (24 * DENSE - 12).astype(np.float32)
    u = same_bits(sigmoid, x)
    assert ulps(u, 1 / (1 + np.exp(-x.astype(np.float64)))).max() < 3
    inner = DENSE[(DENSE > 1e-5) & (DENSE < 1 - 1e-5)]
    exact = np.log(inner / (1 - inner.astype(np.float64)))
    # 1 - u is rounded where u is small, by half a unit of 1: absolute, not relative.
    assert np.abs(same_bits(logit, inner) - exact).max() < 2e-6


def test_the_sigmoid_of_logits_takes_any_number():
    x = np.concatenate([60 * DENSE - 30, [-np.inf, -1e30, 16.64, 40, np.inf]]).astype(np.float32)
    u = same_bits(saturating_sigmoid, x)
    exact = 1 / (1 + np.exp(-np.clip(x, -32, 32).astype(np.float64)))
    assert ulps(u, exact).max() < 3
    assert u[-3:].tolist() == [1, 1, 1]
    assert 0 < u[-5] == u[-4] < 2e-14
    assert np.isnan(same_bits(saturating_sigmoid, np.float32([np.nan]))).all()


def test_nan_stays_nan():
    assert np.isnan(power_of_two(np, np.float32([np.nan]), 3.0)).all()
    assert torch.isnan(power_of_two(torch, torch.tensor([torch.nan]), 3.0)).all()
