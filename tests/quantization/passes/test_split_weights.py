"""A layer and its rest: twice the bits, and the function stays."""

import dataclasses

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.split_weights import SplitWeights, measure_rests, split_weights
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.target.target import load_target
from tests.quantization.networks import assert_same_function, assert_untouched, sqnr_db, state_of
from tests.quantization.passes.blocks import Bottleneck, images
from tests.quantization.passes.test_split_channels import prepare

TARGET = load_target("per-tensor-minmax")


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.ReLU, nn.ELU])
def test_the_function_stays_and_the_weights_add_up(activation):
    graph = trace(Bottleneck(activation=activation).double())
    before, given = state_of(graph), images().double()
    rests = measure_rests(graph, TARGET, [given])
    assert list(rests) == ["stem", "expand", "depthwise", "project"]
    assert rests["depthwise"].macs == 16 * 9 * 12 * 12
    assert rests["depthwise"].sqnr_db < rests["stem"].sqnr_db
    changed = split_weights(graph, TARGET, {name: each.largest for name, each in rests.items()})
    assert_same_function(graph, changed, given)
    assert_untouched(graph, before)
    for name in rests:
        first, rest = (changed.get_submodule(each) for each in (name, f"{name}_rest"))
        torch.testing.assert_close(first.weight + rest.weight, graph.get_submodule(name).weight)
        assert rest.bias is None
        assert rest.weight.abs().max() <= first.weight.abs().max() / 253  # half a step
    assert hasattr(changed, "expand_clip") == (activation is not nn.ELU)
    assert not hasattr(changed, "project_clip")


def test_int8_deviates_less_at_the_cost_that_is_reported():
    network, unseen = Bottleneck(), images(4, seed=2)
    naive = prepare(network, ["fold"])
    split = prepare(network, ["fold", {"split_weights": {"layers": ["depthwise", "exp*"]}}])
    before, after = (sqnr_db(naive.graph, each.quantized, unseen) for each in (naive, split))
    assert after > before + 3
    macs = {"stem": 4 * 3 * 9, "expand": 4 * 16, "depthwise": 16 * 9, "project": 16 * 4}
    assert split.reports[1].values["more_macs"] == pytest.approx((64 + 144) / sum(macs.values()))
    assert "2 layers computed twice" in split.reports[1].summary
    # What is added is not rounded with the range of what the ReLU6 cuts off.
    clipped = quantizers(split.quantized)["depthwise_clip"]
    rest = measure_rests(naive.graph, TARGET, [images()])["depthwise"].largest
    assert float(clipped.low) == pytest.approx(-1.25 * rest)
    assert 6 < float(clipped.high) <= 6 + 1.25 * rest


def test_layers_are_chosen_by_their_sqnr():
    report = prepare(Bottleneck(), ["fold", {"split_weights": {"below_db": 20.0}}]).reports[1]
    assert "stem" not in report.values["split"]
    assert all(each < 20 for each in report.values["split"].values())


def test_what_cannot_gain_is_refused():
    with pytest.raises(ConfigError, match="no convolution is called 'depthwize'; did you mean 'depthwise'"):
        prepare(Bottleneck(), ["fold", {"split_weights": {"layers": ["depthwize"]}}])
    with pytest.raises(ConfigError, match="needs calibration images"):
        prepare(Bottleneck(), ["fold", "split_weights"], [])
    plain = dataclasses.replace(TARGET, fused_activations=("relu",))
    context = prepare(Bottleneck(), ["fold"]).context
    with pytest.raises(ConfigError, match="has none"):
        SplitWeights().requires(trace(Bottleneck()), dataclasses.replace(context, target=plain))
