"""Perturbed channel scales: same function, worse per-tensor quantization, and refusals."""

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.stress import find_sigma, perturb_channel_scales
from tests.quantization.networks import (
    assert_same_function,
    assert_untouched,
    folded_depth_net,
    image,
    sqnr_db,
    state_of,
    with_integer_weights,
)


def test_the_function_stays_and_int8_suffers():
    graph_module = folded_depth_net("resnet18")
    before = state_of(graph_module)
    result = perturb_channel_scales(graph_module, sigma=1.0)
    assert_same_function(graph_module, result.graph_module, image())
    assert_untouched(graph_module, before)
    plain = sqnr_db(graph_module, with_integer_weights(graph_module), image())
    stressed = sqnr_db(graph_module, with_integer_weights(result.graph_module), image())
    assert stressed < plain - 15


def test_scales_are_log_normal_with_the_given_sigma():
    graph_module = folded_depth_net("resnet18")
    stressed = perturb_channel_scales(graph_module, sigma=0.8).graph_module
    name = "encoder.layer4.0.conv1"  # the channels between the convolutions of a block are in no other group
    ratio = stressed.get_submodule(name).bias / graph_module.get_submodule(name).bias
    # 512 draws: the standard error of a standard deviation is 3 %.
    assert ratio.log().std().item() == pytest.approx(0.8, rel=0.1)
    assert ratio.log().mean().item() == pytest.approx(0.0, abs=0.12)


def test_a_seed_is_a_network():
    graph_module = folded_depth_net("resnet18")
    first, again, other = (
        perturb_channel_scales(graph_module, 0.5, seed).graph_module.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_pinned_channels_stay_and_are_counted():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ELU(), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    graph_module = trace(net)
    result = perturb_channel_scales(graph_module, 0.8)
    assert (result.scaled_channels, result.pinned_channels) == (6, 6)
    assert set(result.pinned) == {"0", "4"}
    assert torch.equal(result.graph_module.get_submodule("0").weight, graph_module.get_submodule("0").weight)
    assert not torch.equal(result.graph_module.get_submodule("2").weight, graph_module.get_submodule("2").weight)


def test_a_network_without_a_free_channel_is_refused_with_the_reasons():
    graph_module = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ELU(), nn.Conv2d(4, 1, 1)))
    with pytest.raises(ConfigError, match=r"0: read by 1 \(ELU\).*; 2: an output of the network"):
        perturb_channel_scales(graph_module, 0.8)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ConfigError, match="sigma must be a positive number"):
        perturb_channel_scales(trace(nn.Conv2d(3, 3, 1)), sigma)


def test_the_sigma_of_a_wanted_loss_is_found():
    """Judged by the spread of a layer's weights, which grows with sigma as quantization error does."""
    network = folded_depth_net("resnet18")

    def ratio(graph_module):
        weight = graph_module.get_submodule("encoder.layer1.0.conv1").weight
        return float(weight.detach().abs().amax((1, 2, 3)).log().std().exp())

    sigma = find_sigma(network, ratio, wanted=3.0, tolerance=0.05)
    assert ratio(perturb_channel_scales(network, sigma).graph_module) == pytest.approx(3.0, rel=0.05)


def test_a_ratio_out_of_reach_is_an_error():
    with pytest.raises(ConfigError, match="no sigma up to 4 makes the error after quantization 100 times as large"):
        find_sigma(folded_depth_net("resnet18"), lambda network: 1.5, wanted=100, max_trials=3)
