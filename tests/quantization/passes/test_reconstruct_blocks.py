"""Block reconstruction: weights on the same grid, blocks nearer to the float ones, and nothing else changes."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.reconstruct_blocks import reconstruct_blocks
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, remove_fake_quant, set_enabled
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target
from tests.quantization.networks import assert_untouched, folded_depth_net, image, sqnr_db, state_of
from tests.quantization.passes.test_adaround import (
    LAYERS,
    Net,
    assert_on_the_same_grid,
    error,
    images,
    quantized_layers,
    target_with,
    weights_only,
)

TARGET = load_target("per-tensor-minmax")


class Residual(nn.Module):
    """A residual block whose channels have different ranges, so that one scale loses something."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        with torch.no_grad():
            self.first.weight.mul_(torch.exp(torch.randn(8)).view(1, -1, 1, 1))

    def forward(self, x):
        x = self.stem(x).relu()
        return (x + self.second(self.first(x).relu())).relu()


def vendor(network, target=TARGET):
    return quantize_post_training(network, target, [images()], progress=False)


def reconstructed(network, quantized, values=None, **arguments):
    values = [images(batch=32)] if values is None else values
    return reconstruct_blocks(network, quantized, values, progress=False, **arguments).graph


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_weights_are_on_their_grid_and_the_scales_do_not_move(granularity):
    graph_module = trace(Net())
    quantized = vendor(graph_module, target_with(granularity=granularity))
    rounded = reconstructed(graph_module, quantized, iterations=30)
    assert_on_the_same_grid(rounded, quantized)
    assert set(quantized_layers(rounded)) == set(LAYERS)


def test_only_weights_and_biases_change_and_the_arguments_do_not():
    graph_module = trace(Net())
    quantized = vendor(graph_module).train()
    before, quantized_before = state_of(graph_module), state_of(quantized)
    rounded = reconstructed(graph_module, quantized, images().split(6), iterations=20)
    assert_untouched(graph_module, before)
    assert_untouched(quantized, quantized_before)
    assert quantized.training
    assert not rounded.training
    state = rounded.state_dict()
    changed = {name for name, value in state.items() if not torch.equal(value, quantized_before[name])}
    weights = {f"{name}.weight" for name in LAYERS}
    others = {f"{name}.{each}" for name in LAYERS for each in ("bias", "weight_quantizer.low", "weight_quantizer.high")}
    assert weights <= changed <= weights | others
    assert any(name.endswith(".bias") for name in changed)


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_the_output_of_a_block_gets_nearer_on_unseen_images(granularity):
    graph_module = trace(Residual())
    quantized = weights_only(graph_module, target_with(granularity=granularity))
    rounded = reconstructed(graph_module, quantized, iterations=150)
    unseen = images(seed=2)
    assert error(graph_module, rounded, unseen) < 0.7 * error(graph_module, quantized, unseen)


def test_it_makes_up_for_the_error_of_the_layers_before():
    """The quantized network's first layer, which is not rounded, is 2 % off: the second can take that back."""
    torch.manual_seed(0)
    graph_module = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)))
    quantized = weights_only(graph_module)
    set_enabled(quantized, False, sites=["0.weight"])
    with torch.no_grad():
        for parameter in quantized.get_submodule("0").parameters(recurse=False):
            parameter.mul_(1.02)
    rounded = reconstructed(graph_module, quantized, iterations=300, max_layers=1)
    unseen = images(seed=2)
    assert error(graph_module, rounded, unseen) < 0.5 * error(graph_module, quantized, unseen)


def test_it_helps_a_depth_network():
    graph_module = copy.deepcopy(folded_depth_net("mobilenetv2_100")).float()
    batches = list(image(batch=8).float().split(4))
    quantized = quantize_post_training(graph_module, TARGET, batches, progress=False)
    rounded = reconstructed(graph_module, quantized, batches, iterations=20)
    again = quantize_post_training(remove_fake_quant(rounded), TARGET, batches, progress=False)
    assert sqnr_db(graph_module, again, batches[0]) > sqnr_db(graph_module, quantized, batches[0]) + 1


def test_a_tool_chain_that_quantizes_the_float_file_keeps_the_roundings():
    graph_module = trace(Net())
    rounded = reconstructed(graph_module, vendor(graph_module), iterations=30)
    plain = remove_fake_quant(rounded)
    again = vendor(plain)
    set_enabled(again, False, kinds=["input", "activation", "output"])
    for name, layer in quantized_layers(again).items():
        assert torch.equal(layer.rounded()[0], plain.get_submodule(name).weight)


def test_a_block_that_does_not_get_better_on_unseen_images_stays_rounded_to_nearest():
    """All images but the last two see only the first input channel; those, held out, see the others."""
    torch.manual_seed(0)
    graph_module = trace(nn.Sequential(nn.Conv2d(8, 4, 1)))
    values = images(8, batch=16)
    values[:14, 1:] *= 1e-3
    values[14:, 0] *= 1e-3
    quantized = weights_only(graph_module)
    result = reconstruct_blocks(graph_module, quantized, [values], 100, progress=False)
    layer, rounded = quantized.get_submodule("0"), result.graph.get_submodule("0")
    assert (result.blocks, result.kept) == (1, 0)
    assert torch.equal(rounded.weight, layer.weight_quantizer(layer.weight))
    assert torch.equal(rounded.bias, layer.bias)


def test_the_seed_decides():
    graph_module = trace(Net())
    quantized = vendor(graph_module)
    states = [state_of(reconstructed(graph_module, quantized, iterations=60, seed=seed)) for seed in (0, 0, 1)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_layers_that_are_used_twice_or_stay_float_are_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.unrounded, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)

        def forward(self, x):
            return self.last(self.unrounded(self.conv(self.conv(x))))

    torch.manual_seed(0)
    graph_module = trace(Twice())
    quantized = vendor(graph_module)
    set_enabled(quantized, False, sites=["unrounded.weight"])
    rounded = reconstructed(graph_module, quantized, iterations=20)
    layer = quantized.get_submodule("conv")
    assert torch.equal(rounded.get_submodule("conv").weight, layer.weight_quantizer(layer.weight))
    assert torch.equal(rounded.get_submodule("unrounded").weight, graph_module.get_submodule("unrounded").weight)


def test_wrong_arguments_are_errors():
    graph_module = trace(Net())
    quantized = vendor(graph_module)
    with pytest.raises(ConfigError, match="needs calibration images"):
        reconstructed(graph_module, quantized, [])
    with pytest.raises(ConfigError, match="iterations: received 0"):
        reconstructed(graph_module, quantized, iterations=0)
    with pytest.raises(ConfigError, match="max_layers: received 0"):
        reconstructed(graph_module, quantized, max_layers=0)
    with pytest.raises(ConfigError, match="the float network has no layer 'stem'"):
        reconstructed(trace(nn.Sequential(nn.Conv2d(3, 1, 1))), quantized)
    with pytest.raises(ConfigError, match="no quantized layers"):
        reconstructed(graph_module, graph_module)
    weights = dataclasses.replace(TARGET.weights, dtype="uint8", symmetric=False)
    asymmetric = fake_quantize(graph_module, dataclasses.replace(TARGET, weights=weights))
    with pytest.raises(ConfigError, match="received an asymmetric weight format"):
        reconstructed(graph_module, asymmetric)


class Windows(nn.Module):
    """Halves of the image are images of their own between two layers: a block reads values of no image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x):
        x = self.first(x).relu()
        count, channels, height, width = x.shape
        x = x.reshape(2 * count, channels, height // 2, width)
        x = self.second(x).relu()
        return self.last(x.reshape(count, channels, height, width))


def test_a_block_whose_values_are_not_of_each_image_is_left_alone():
    graph_module = trace(Windows())
    quantized = vendor(graph_module)
    result = reconstruct_blocks(graph_module, quantized, [images(batch=32)], 10, max_layers=1, progress=False)
    before, after = quantized_layers(quantized), quantized_layers(result.graph)
    assert torch.equal(after["second"].weight, before["second"].weight)
    assert result.blocks < 3
    assert result.graph(images()).shape == graph_module(images()).shape
