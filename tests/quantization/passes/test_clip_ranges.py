"""Outliers are clipped where they cost all others their resolution."""

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.target.target import load_target
from tests.quantization.networks import sqnr_db
from tests.quantization.passes.blocks import images
from tests.quantization.passes.test_split_channels import prepare


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))


def with_outlier():
    given = images(8, size=64)
    given[0, :, 5, 5] = 40.0  # one pixel of one image
    return given


def test_an_outlier_of_the_calibration_images_no_longer_sets_the_range():
    given = with_outlier()
    naive = prepare(network(), ["fold"], [given])
    clipped = prepare(network(), ["fold", {"clip_ranges": {"calibrator": "percentile"}}], [given])
    assert clipped.reports[1].summary == "2 of 2 activations clipped"
    before, after = (quantizers(each.quantized)["1"] for each in (naive, clipped))
    assert float(after.high) < 0.6 * float(before.high)
    assert type(clipped.graph.get_submodule("1")) is nn.Hardtanh
    # The input has the outlier, too, and no operator could absorb a clip there.
    unseen = images(2, size=64, seed=3)
    assert sqnr_db(naive.graph, clipped.quantized, unseen) > sqnr_db(naive.graph, naive.quantized, unseen)


def test_the_squared_error_keeps_an_outlier_that_would_cost_more_than_it_spoils():
    assert prepare(network(), ["fold", "clip_ranges"], [with_outlier()]).reports[1].values["clipped"] == {}


def test_where_ranges_suit_nothing_changes():
    prepared = prepare(network(), ["fold", {"clip_ranges": {"min_gain": 3.0}}])
    assert prepared.reports[1].summary == "0 of 2 activations clipped"
    assert prepared.reports[1].values["largest_deviation"] == 0


def test_it_needs_images_and_a_gain():
    with pytest.raises(ConfigError, match="needs calibration images"):
        prepare(network(), ["fold", "clip_ranges"], [])
    with pytest.raises(ConfigError, match="min_gain: received 0.5"):
        prepare(network(), ["fold", {"clip_ranges": {"min_gain": 0.5}}])


def test_a_symmetric_scale_is_that_of_the_larger_end():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 1, 1))
    torch.manual_seed(0)
    nn.init.normal_(network[0].weight, std=0.5)
    nn.init.constant_(network[0].bias, -3.0)  # nearly all values are negative
    context = Context(load_target("symmetric-pow2"), [with_outlier()], Interface.raw("image", (3, 12, 12), ["y"]))
    recipe = Recipe.from_entries(["fold", {"clip_ranges": {"calibrator": "percentile"}}])
    prepared = Preparer(network, context)(recipe)
    ((low, high),) = prepared.reports[1].values["clipped"].values()
    assert low == -high < -3
    unseen = images(2, size=64, seed=3)
    assert sqnr_db(prepared.trained, prepared.graph, unseen) > 30
