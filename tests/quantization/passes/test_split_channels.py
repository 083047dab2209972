"""Channels of unlike range get scales of their own; the function stays."""

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.passes.base import Context, PassError
from depth_distill.quantization.passes.split_channels import channel_powers, split_channels
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.target.target import load_target
from tests.quantization.networks import assert_same_function, assert_untouched, sqnr_db, state_of
from tests.quantization.passes.blocks import Bottleneck, images


def prepare(network, entries, calibration=None, target="per-tensor-minmax"):
    given = [images()] if calibration is None else calibration
    context = Context(load_target(target), given, Interface.raw("image", (3, 12, 12), ["y"]))
    return Preparer(network, context)(Recipe.from_entries(entries))


def test_the_function_stays_and_the_noise_of_weights_falls():
    graph = trace(Bottleneck().double())
    before, given = state_of(graph), images().double()
    changed, splits, left = split_channels(graph, channel_powers(graph, [given]), parts=4, multiple=2)
    assert_same_function(graph, changed, given)
    assert_untouched(graph, before)
    (split,) = splits
    assert split.layers == ("expand", "depthwise")
    assert sum(split.sizes) == 16
    assert split.gain > 4
    assert "project" in left
    sizes = [changed.get_submodule(f"depthwise_{place}").groups for place in range(len(split.sizes))]
    assert tuple(sizes) == split.sizes
    weights = sum(value.numel() for value in changed.parameters())
    assert weights == sum(value.numel() for value in graph.parameters())


def test_int8_deviates_less():
    network, unseen = Bottleneck(), images(4, seed=2)
    naive = prepare(network, ["fold"])
    split = prepare(network, ["fold", {"split_channels": {"multiple": 2}}])
    before, after = (sqnr_db(naive.graph, each.quantized, unseen) for each in (naive, split))
    assert after > before + 3  # the noise of the depthwise weights falls by more, that of activations stays
    assert "2 layers became" in split.reports[1].summary


def test_channels_that_are_alike_stay_together():
    prepared = prepare(Bottleneck(spread=0.0), ["fold", {"split_channels": {"min_gain": 10.0}}])
    assert prepared.reports[1].summary == "nothing to split"
    assert prepared.reports[1].values["left"]["expand"] == "its channels are alike"


def test_where_every_channel_has_a_scale_nothing_is_split():
    prepared = prepare(Bottleneck(), ["fold", {"split_channels": {"multiple": 2}}], target="per-channel")
    assert prepared.reports[1].summary == "nothing to split: scales are per channel"
    assert not any(name.startswith("expand_") for name, _ in prepared.graph.named_modules())


def test_a_transposed_convolution_that_reads_a_chain_is_permuted_too():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 2, 2, 2)).double()
    with torch.no_grad():
        network[0].weight.mul_(torch.logspace(0, -3, 8).view(-1, 1, 1, 1))
    graph = trace(network)
    given = images().double()
    changed, splits, _ = split_channels(graph, channel_powers(graph, [given]), parts=2, multiple=1)
    assert len(splits) == 1
    assert_same_function(graph, changed, given)


def test_a_layer_may_read_one_chain_and_start_the_next():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)]
    network = nn.Sequential(*layers).double()
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight.mul_(torch.logspace(0, -3, 8).view(-1, 1, 1, 1))
    graph = trace(network)
    given = images().double()
    changed, splits, _ = split_channels(graph, channel_powers(graph, [given]), parts=2, multiple=1)
    assert [each.layers for each in splits] == [("0",), ("2",)]
    assert_same_function(graph, changed, given)


def test_it_is_not_for_training_and_needs_two_parts():
    with pytest.raises(PassError, match="needs calibration images"):
        prepare(Bottleneck(), ["fold", "split_channels"], [])
    with pytest.raises(PassError, match="parts: received 1, expected 2 or more"):
        prepare(Bottleneck(), ["fold", {"split_channels": {"parts": 1}}])
    with pytest.raises(ConfigError, match="min_gain"):
        prepare(Bottleneck(), ["fold", {"split_channels": {"min_gain": 0.5}}])
