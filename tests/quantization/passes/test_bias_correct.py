"""Bias correction: output means are those of the float network, layer by layer, and nothing else changes."""

import copy

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.bias_correct import bias_correct
from tests.quantization.networks import assert_untouched, folded_depth_net, image, sqnr_db, state_of


class Net(nn.Module):
    """A residual block, a transposed convolution without bias, and a linear layer over the channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.conv(x)).relu()
        return self.head(self.up(x).relu().permute(0, 2, 3, 1))


def coarse(graph_module, bits=3):
    """Weights rounded down to a few bits: every layer's mean shifts."""
    rounded = copy.deepcopy(graph_module)
    for module in rounded.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            scale = module.weight.detach().abs().max() / (2 ** (bits - 1) - 1)
            module.weight.data = (module.weight.data / scale).floor() * scale
    return rounded


def output_means(graph_module, images):
    means = {}
    for name, module in graph_module.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, __, out, name=name: means.update({name: out.mean((0, 2, 3))}))
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, __, out, name=name: means.update({name: out.flatten(0, -2).mean(0)}))
    with torch.no_grad():
        graph_module(images)
    return means


def test_every_layer_gets_its_float_mean_back():
    graph_module = trace(Net().double())
    quantized = coarse(graph_module)
    before, quantized_before = state_of(graph_module), state_of(quantized)
    images = torch.cat([image(16, batch=3), image(16)])
    corrected = bias_correct(graph_module, quantized, images.split(2))  # batches of 2, 2 and 1: images count alike
    assert_untouched(graph_module, before)
    assert_untouched(quantized, quantized_before)
    expected, received, uncorrected = (
        output_means(copy.deepcopy(each), images) for each in (graph_module, corrected, quantized)
    )
    assert set(expected) == {"stem", "conv", "up", "head"}
    for name, mean in expected.items():
        torch.testing.assert_close(received[name], mean, rtol=0, atol=1e-10)
        assert (uncorrected[name] - mean).abs().max() > 0.01


def test_only_biases_change():
    graph_module = trace(Net().double())
    quantized = coarse(graph_module)
    corrected = bias_correct(graph_module, quantized, [image(16)])
    assert corrected.get_submodule("up").bias is not None
    for name, value in quantized.state_dict().items():
        assert torch.equal(value, corrected.state_dict()[name]) != name.endswith("bias")


def test_an_exact_network_is_not_corrected():
    graph_module = trace(Net().double())
    corrected = bias_correct(graph_module, graph_module, [image(16)])
    for name, value in graph_module.state_dict().items():
        torch.testing.assert_close(corrected.state_dict()[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv2_100"])
def test_it_helps_a_network_that_was_rounded_down(encoder):
    graph_module = folded_depth_net(encoder)
    quantized = coarse(graph_module, bits=8)
    corrected = bias_correct(graph_module, quantized, [image()])
    assert sqnr_db(graph_module, corrected, image()) > sqnr_db(graph_module, quantized, image()) + 3


def test_layers_that_are_used_twice_are_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)

        def forward(self, x):
            return self.last(self.conv(self.conv(x)))

    graph_module = trace(Twice().double())
    quantized = coarse(graph_module)
    corrected = bias_correct(graph_module, quantized, [image(16)])
    assert torch.equal(corrected.get_submodule("conv").bias, quantized.get_submodule("conv").bias)
    assert not torch.equal(corrected.get_submodule("last").bias, quantized.get_submodule("last").bias)


def test_wrong_arguments_are_errors():
    graph_module = trace(Net().double())
    with pytest.raises(ConfigError, match="needs calibration images"):
        bias_correct(graph_module, graph_module, [])
    with pytest.raises(ConfigError, match="the float network has no layer"):
        bias_correct(trace(nn.Sequential(nn.Conv2d(3, 1, 1))), graph_module, [image(16)])
