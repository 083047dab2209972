"""Operators as an NPU runs them, and which quantizers are on where some layers are in floating point."""

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers, requantize_moves
from depth_distill.quantization.simulate.npu_operators import enabled_sites_for, npu_operators
from tests.quantization.networks import folded_depth_net
from tests.quantization.small_case import LAYERS, SITES, TARGET, SmallNet, quantized_net


def described(model):
    return {
        each.name: (set(each.reads), each.writes, set(each.sources))
        for each in npu_operators(fake_quantize(trace(model), TARGET))
    }


def on(*float_layers, model=SmallNet):
    return enabled_sites_for(npu_operators(fake_quantize(trace(model()), TARGET)), float_layers)


def test_operators_with_their_activations_fused():
    assert described(SmallNet()) == {
        "stem": ({"image"}, "act", set()),  # with the ReLU behind it
        "conv1": ({"act"}, "act1", {"stem"}),  # through the pooling
        "conv2": ({"act1"}, "conv2", {"conv1"}),
        "add": ({"act", "conv2"}, "act2", {"stem", "conv2"}),
        "cat": ({"act", "act2"}, "cat", {"stem", "add"}),  # through the upsampling
        "fuse": ({"cat"}, "relu", {"cat"}),
        "head": ({"relu"}, "head", {"fuse"}),  # a sigmoid is not fused
        "output": ({"head"}, "output", {"head"}),
    }


def test_layers_and_the_number_of_their_weights_and_biases():
    operators = npu_operators(quantized_net())
    assert {each.name: each.parameters for each in operators if each.is_layer} == {
        "stem": (8 * 3 * 9, 8),
        "conv1": (8 * 8 * 9, 8),
        "conv2": (8 * 8 * 9, 8),
        "fuse": (8 * 16 * 9, 8),
        "head": (8 * 9, 1),
    }
    assert {each.name: each.weight for each in operators} == {name: f"{name}.weight" for name in LAYERS} | {
        "add": None,
        "cat": None,
        "output": None,
    }


def test_a_layer_that_is_called_twice_comes_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 1, 1)

        def forward(self, image):
            return self.last(self.conv(self.conv(image).relu()))

    (conv, last) = npu_operators(fake_quantize(trace(Twice()), TARGET))
    assert (conv.name, conv.reads, conv.sources) == ("conv", {"image", "relu"}, {"conv"})
    assert conv.parameters == (9, 0)
    assert last.sources == {"conv"}


def test_functions_with_one_name_are_told_apart():
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, image):
            features = self.conv(image)
            return (features + image) + features

    assert list(described(Adds())) == ["conv", "add", "add_1"]


def test_moves_that_are_rounded_again_change_nothing():
    quantized = quantized_net()
    assert npu_operators(requantize_moves(quantized)) == npu_operators(quantized)


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv2_100"])
def test_every_quantizer_of_a_depth_net_belongs_to_an_operator(encoder):
    quantized = fake_quantize(folded_depth_net(encoder), TARGET)
    operators = npu_operators(quantized)
    touched = set().union(*({each.weight, each.writes, *each.reads} for each in operators)) - {None}
    assert touched == set(quantizers(quantized))
    assert all(each.writes is not None for each in operators)


def test_none_in_float_is_everything_on_and_all_in_float_nothing():
    assert on() == set(SITES)
    assert on(*LAYERS) == set()


def test_a_float_layer_beside_integer_layers_keeps_only_its_weight():
    assert set(SITES) - on("conv1") == {"conv1.weight"}  # conv1 reads and writes the grids of its neighbours


def test_the_tensor_between_two_float_layers_is_not_rounded():
    off = set(SITES) - on("conv1", "conv2")
    assert {"conv1.weight", "act1", "conv2.weight"} <= off
    assert "act" not in off  # conv1 is in float, but what it reads comes from an integer layer


def test_an_add_is_in_float_if_one_input_is():
    off = set(SITES) - on("conv2")
    # Neither what conv2 hands to the add nor what the add hands to the concat; conv1 still writes its grid.
    assert off == {"conv2.weight", "conv2", "act2"}


def test_a_concat_is_in_float_if_one_input_is():
    off = set(SITES) - on("stem")
    # The skip's own grid is on for conv1; add and concat are in float, but fuse needs what the concat writes.
    assert off == {"stem.weight", "image", "act2"}
    assert set(SITES) - on("stem", "fuse") == off | {"fuse.weight", "cat"}


def test_the_input_is_rounded_if_an_integer_layer_reads_it():
    assert "image" in on("conv1", "conv2", "fuse", "head")
    assert "image" not in on("stem")


def test_output_codes_are_rounded_unless_what_makes_them_is_in_float():
    assert "output" in on("stem", "conv1", "conv2", "fuse")
    assert not {"head", "output"} & on("head")


def test_a_layer_alone_in_integers_rounds_all_that_it_touches():
    assert on("stem", "conv2", "fuse", "head") == {"conv1.weight", "act", "act1"}
    # The sigmoid that reads the head alone is in integers with it.
    assert on("stem", "conv1", "conv2", "fuse") == {"head.weight", "relu", "head", "output"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("conv3", "did you mean 'conv"), ("haed", "did you mean 'head'"), ("add", "expected one of stem, conv1")],
)
def test_what_is_no_layer_is_an_error(name, hint):
    with pytest.raises(ConfigError, match=f"no quantized layer '{name}'; {hint}"):
        on(name)


def test_the_setting_of_a_float_network_leaves_it_alone():
    quantized, float_network = quantized_net(), trace(SmallNet())
    for site, quantizer in quantizers(quantized).items():
        quantizer.enabled = site in on(*LAYERS)
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(quantized(image), float_network(image))
