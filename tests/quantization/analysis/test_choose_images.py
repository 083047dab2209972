"""Ranges of any subset follow from statistics of each image; sets are chosen so that none is widened by one image."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.errors import DataError
from depth_distill.quantization.analysis import image_ranges
from depth_distill.quantization.analysis.choose_images import RangeCost, choose_greedily, stretch_of
from depth_distill.quantization.analysis.image_ranges import ImageRanges, measure_images, noise_gains
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.calibrate import calibrate
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers
from tests.quantization.small_case import TARGET, SmallNet

IMAGES = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8).view(7, 1, 1, 1)


@pytest.fixture(scope="module")
def quantized():
    return fake_quantize(trace(SmallNet().eval()), TARGET)


@pytest.mark.parametrize("subset", [[0], [2, 5], [6, 1, 3]])
def test_the_ranges_of_a_subset_are_those_of_calibrating_on_it(quantized, subset):
    found = measure_images(quantized, IMAGES.split(3))
    expected = calibrate(quantized, [IMAGES[subset]], progress=False).ranges
    for site, ends in found.of(subset).items():
        assert ends == pytest.approx(expected[site], rel=1e-5)  # convolutions of other batches add in another order
    assert np.allclose(found.shares.sum(-1), 1, atol=1e-5)


def test_statistics_leave_the_network_alone_and_name_what_is_not_finite(quantized):
    switches = [each.enabled for each in quantizers(quantized).values()]
    broken = IMAGES.clone()
    broken[4, 0, 0, 0] = math.nan
    with pytest.raises(DataError, match="image: NaN or infinity in the float network at image 4"):
        measure_images(quantized, broken.split(3))
    assert [each.enabled for each in quantizers(quantized).values()] == switches
    with pytest.raises(DataError, match="no calibration images"):
        measure_images(quantized, [])


class Doubling(nn.Module):
    """Noise of the first tensor arrives nine times, that of the second once."""

    def forward(self, image):
        return F.relu(image) * 3


def test_gains_are_what_white_noise_of_variance_one_does_to_the_outcome():
    graph = trace(Doubling())
    quantized = fake_quantize(graph, TARGET)
    gains, variance = noise_gains(quantized, [IMAGES.abs()], lambda found: found)
    sites = list(measure_images(quantized, [IMAGES.abs()]).sites)
    assert dict(zip(sites, gains, strict=True)) == pytest.approx({"image": 9, "relu": 9, "mul": 1})
    assert variance == pytest.approx(float((3 * IMAGES.abs()).var()), rel=1e-5)


def test_gains_leave_the_images_as_they_are(quantized):
    images = IMAGES.clone()
    noise_gains(quantized, [images], lambda found: found)
    assert not images.requires_grad


def test_two_tensors_with_one_scale_weigh_as_many_values_as_they_have():
    def statistics(values):
        low, high = map(float, values.aminmax())
        share = float(values.count_nonzero()) / values.numel()
        return low, high, share, image_ranges._histogram(values, low, high), values.numel()

    one, two = torch.linspace(0, 1, 900), torch.zeros(100)
    low, high, rounded, shares, count = image_ranges._joined(statistics(one), statistics(two))
    assert (low, high, count) == (0, 1, 1000)
    assert rounded == pytest.approx(0.899)
    assert float(shares[0]) == pytest.approx(0.1 + 0.9 / 512, rel=0.05)
    assert float(shares.sum()) == pytest.approx(1)


def one_site(*images):
    """Statistics of images at one site, from values."""
    rows = [np.asarray(each, np.float64) for each in images]
    shares = [np.histogram(each, 512, (each.min(), each.max()))[0] / each.size for each in rows]
    return ImageRanges(
        ("site",),
        np.array([[each.min()] for each in rows]),
        np.array([[each.max()] for each in rows]),
        np.array(shares, np.float32)[:, None],
        np.array([[np.mean(each != 0)] for each in rows]),
    )


def test_the_expected_deviation_is_that_of_rounding_and_clipping():
    generator = np.random.default_rng(0)
    values = [generator.uniform(0, 10, 100_000), generator.uniform(0, 4, 100_000)]
    cost = RangeCost(one_site(*values), np.ones(1), 1e9, TARGET.activations)
    for high in (10.0, 6.0, 4.0):
        (expected,) = cost(np.zeros((1, 1)), np.array([[high]]))
        codes = [np.clip(np.rint(each / (high / 255)), 0, 255) * (high / 255) for each in values]
        real = np.mean([np.sqrt(np.mean((code - each) ** 2)) for code, each in zip(codes, values, strict=True)])
        assert expected == pytest.approx(real, rel=0.02)


def test_the_image_that_would_widen_the_range_of_all_is_left_out():
    generator = np.random.default_rng(0)
    usual = [generator.uniform(0, 4 + index / 10, 5000) for index in range(10)]
    wild = generator.uniform(0, 4, 5000)
    wild[:25] = 60.0
    cost = RangeCost(one_site(*usual, wild), np.ones(1), 1.0, TARGET.activations, left_out=0.1)
    chosen = choose_greedily(cost, cost.images, 8)
    assert len(chosen) == 8
    assert chosen[0] >= 6  # the first one shows most of what the others have
    assert 10 not in chosen
    rises = stretch_of(cost, cost.images, chosen)
    assert max(range(11), key=lambda image: rises[image][0]) == 10
    assert rises[10][0] > 1
    assert all(rises[image][0] == 0 for image in chosen)
    assert len(choose_greedily(cost, cost.images, 11)) == 10  # ends before it
