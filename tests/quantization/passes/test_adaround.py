"""Adaptive rounding: weights on the same grid, layers nearer to the float ones, and nothing else changes."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.adaround import adaround
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, remove_fake_quant, set_enabled
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer
from depth_distill.quantization.target.target import load_target
from tests.quantization.networks import assert_untouched, folded_depth_net, image, sqnr_db, state_of

TARGET = load_target("per-tensor-minmax")


class Net(nn.Module):
    """One layer of each kind: dilated, residual, depthwise, grouped with stride, transposed, and linear."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=2, dilation=2)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect", groups=8)
        self.grouped = nn.Conv2d(8, 12, (3, 1), stride=2, padding=(1, 0), groups=2, bias=False)
        self.up = nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1)
        self.up_dilated = nn.ConvTranspose2d(8, 6, (2, 3), dilation=2, padding=(0, 1), bias=False)
        self.head = nn.Linear(6, 5)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = (x + self.conv(x)).relu()
        x = self.act(self.grouped(self.act(self.depthwise(x))))
        x = self.up_dilated(self.act(self.up(x))).relu()
        return self.head(x.permute(0, 2, 3, 1))


LAYERS = ("stem", "conv", "depthwise", "grouped", "up", "up_dilated", "head")


class Single(nn.Module):
    """One layer and its activation."""

    def __init__(self, layer, activation=None):
        super().__init__()
        self.layer, self.activation = layer, activation or nn.Identity()

    def forward(self, x):
        return self.activation(self.layer(x))


def images(channels=3, batch=16, seed=1):
    """16 x 16, with channels and neighbours correlated as in photographs: white noise leaves little to gain."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=torch.Generator().manual_seed(0)) + 1
    smooth = F.interpolate(torch.randn(batch, channels, 4, 4, generator=generator), scale_factor=4, mode="bilinear")
    noise = torch.randn(batch, channels, 16, 16, generator=generator)
    return torch.einsum("ij,bjhw->bihw", mixing, smooth + 0.1 * noise)


def target_with(bits="int8", granularity="per_tensor", power_of_two=False):
    weights = dataclasses.replace(TARGET.weights, granularity=granularity, power_of_two=power_of_two, dtype=bits)
    can = dataclasses.replace(TARGET.capabilities, per_channel_weights="yes", int16="yes")
    return dataclasses.replace(TARGET, weights=weights, capabilities=can)


def quantized_layers(graph_module):
    return {name: each for name, each in graph_module.named_modules() if isinstance(each, QuantizedLayer)}


def assert_on_the_same_grid(rounded, quantized):
    """As a tool chain sees it: from the float weight alone, same scale, and codes that are whole already."""
    for name, layer in quantized_layers(rounded).items():
        before = quantized.get_submodule(name)
        quantizer = before.weight_quantizer
        scale = layer.weight_quantizer.constants()[0]
        assert torch.equal(scale, quantizer.constants()[0])
        fresh = FakeQuantizer("fresh", "weight", quantizer.tensor_format, scale.numel(), quantizer.channel_dim)
        assert torch.equal(fresh(layer.weight), layer.weight)
        assert torch.equal(fresh.constants()[0], scale)
        # Up or down, and no further.
        shape = [-1 if dim == quantizer.channel_dim else 1 for dim in range(layer.weight.ndim)]
        step = scale.view(shape) if scale.ndim else scale
        assert ((layer.weight - before.weight).abs() / step).max() < 1.0001


def float_outputs(network, values):
    with torch.no_grad():
        return network(values)


def weights_only(graph_module, target=TARGET):
    """Fake-quantized weights behind float activations, so that the error is the rounding's."""
    quantized = fake_quantize(graph_module, target)
    set_enabled(quantized, False, kinds=["input", "activation", "output"])
    return quantized


def error(reference, network, values):
    return float((float_outputs(reference, values) - float_outputs(network, values)).square().mean())


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_weights_are_on_their_grid_and_the_scales_do_not_move(granularity):
    graph_module = trace(Net())
    quantized = quantize_post_training(graph_module, target_with(granularity=granularity), [images()], progress=False)
    rounded = adaround(graph_module, quantized, [images()], iterations=30, progress=False)
    assert_on_the_same_grid(rounded, quantized)
    assert set(quantized_layers(rounded)) == set(LAYERS)


def test_scales_that_are_powers_of_two_do_not_move():
    graph_module = trace(Net())
    target = target_with(power_of_two=True)
    quantized = quantize_post_training(graph_module, target, [images()], progress=False)
    assert_on_the_same_grid(adaround(graph_module, quantized, [images()], 50, progress=False), quantized)


def test_only_weights_change_and_the_arguments_do_not():
    graph_module = trace(Net())
    quantized = quantize_post_training(graph_module, TARGET, [images()], progress=False).train()
    before, quantized_before = state_of(graph_module), state_of(quantized)
    rounded = adaround(graph_module, quantized, images().split(6), iterations=20, progress=False)
    assert_untouched(graph_module, before)
    assert_untouched(quantized, quantized_before)
    assert quantized.training
    assert not rounded.training
    weights = {f"{name}.weight" for name in LAYERS}
    ranges = {f"{name}.weight_quantizer.{bound}" for name in LAYERS for bound in ("low", "high")}
    changed = {name for name, value in rounded.state_dict().items() if not torch.equal(value, quantized_before[name])}
    assert weights <= changed <= weights | ranges


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        pytest.param(nn.Conv2d(8, 8, 3, padding=1), 8, id="conv"),
        pytest.param(nn.Conv2d(8, 8, 3, stride=2, dilation=2), 8, id="dilated"),
        pytest.param(nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect", groups=8), 8, id="depthwise"),
        pytest.param(nn.Conv2d(8, 12, (3, 1), padding=(1, 0), groups=2, bias=False), 8, id="grouped"),
        pytest.param(nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), 8, id="transposed"),
        pytest.param(
            nn.ConvTranspose2d(8, 12, (2, 3), 3, output_padding=1, groups=2, dilation=(2, 1), bias=False),
            8,
            id="transposed-grouped",
        ),
        pytest.param(nn.Linear(8, 12), 8, id="linear"),
    ],
)
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_every_kind_of_layer_gets_nearer_to_the_float_one(layer, channels, granularity):
    torch.manual_seed(0)
    layer.reset_parameters()
    # Ranges differ between channels, so that rounding to one scale loses something.
    with torch.no_grad():
        layer.weight.mul_(torch.exp(torch.randn(layer.weight.shape[1]).view(1, -1, *[1] * (layer.weight.ndim - 2))))
    values = images(channels)
    unseen = images(channels, seed=2)
    if isinstance(layer, nn.Linear):
        values, unseen = values.permute(0, 2, 3, 1), unseen.permute(0, 2, 3, 1)
    graph_module = trace(Single(layer, nn.ReLU()))
    quantized = weights_only(graph_module, target_with(granularity=granularity))
    rounded = adaround(graph_module, quantized, values.split(8), progress=False)
    assert_on_the_same_grid(rounded, quantized)
    assert error(graph_module, rounded, unseen) < 0.8 * error(graph_module, quantized, unseen)


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU6(), nn.PReLU(8), nn.Sigmoid()])
def test_errors_that_the_activation_hides_do_not_count(activation):
    """With a bias that closes half of the ReLUs there is more freedom, and all of it is in the objective."""
    torch.manual_seed(0)
    graph_module = trace(Single(nn.Conv2d(8, 8, 3), activation))
    quantized = weights_only(graph_module)
    rounded = adaround(graph_module, quantized, [images(8)], progress=False)
    assert error(graph_module, rounded, images(8, seed=2)) < error(graph_module, quantized, images(8, seed=2))


def test_it_helps_a_depth_network():
    graph_module = copy.deepcopy(folded_depth_net("mobilenetv2_100")).float()
    batches = list(image(batch=8).float().split(4))
    quantized = weights_only(graph_module)
    rounded = adaround(graph_module, quantized, batches, iterations=20, progress=False)
    assert sqnr_db(graph_module, rounded, batches[0]) > sqnr_db(graph_module, quantized, batches[0]) + 1


def test_a_tool_chain_that_quantizes_the_float_file_keeps_the_roundings():
    graph_module = trace(Net())
    quantized = quantize_post_training(graph_module, TARGET, [images()], progress=False)
    rounded = adaround(graph_module, quantized, [images()], iterations=30, progress=False)
    again = quantize_post_training(remove_fake_quant(rounded), TARGET, [images()], progress=False)
    set_enabled(again, False, kinds=["input", "activation", "output"])
    assert torch.equal(float_outputs(again, images()), float_outputs(remove_fake_quant(rounded), images()))


def test_it_makes_up_for_the_error_of_the_layers_before():
    """The quantized network's first layer is 2 % off, which rounding of the second can take back."""
    torch.manual_seed(0)
    graph_module = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)))
    quantized = weights_only(graph_module)
    with torch.no_grad():
        for parameter in quantized.get_submodule("0").parameters(recurse=False):
            parameter.mul_(1.02)
    rounded = adaround(graph_module, quantized, [images()], progress=False)
    unseen = images(seed=2)
    assert error(graph_module, rounded, unseen) < 0.5 * error(graph_module, quantized, unseen)


def test_the_seed_decides():
    graph_module = trace(Net())
    quantized = quantize_post_training(graph_module, TARGET, [images()], progress=False)
    states = [
        state_of(adaround(graph_module, quantized, [images()], iterations=10, seed=seed, progress=False))
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_a_network_on_its_grid_is_left_alone():
    graph_module = trace(Net())
    nearest = weights_only(graph_module)
    with torch.no_grad():
        for layer in quantized_layers(nearest).values():
            layer.weight.copy_(layer.weight_quantizer(layer.weight))
    plain = remove_fake_quant(nearest)
    rounded = adaround(plain, nearest, [images()], iterations=20, progress=False)
    assert_untouched(remove_fake_quant(rounded), state_of(plain))


def test_a_channel_that_does_not_get_better_on_unseen_images_is_rounded_to_nearest():
    """All images but the last see only the first input channel; the last, held out, sees the others."""
    torch.manual_seed(0)
    graph_module = trace(Single(nn.Conv2d(8, 4, 1)))
    values = images(8, batch=8)
    values[:7, 1:] *= 1e-3
    quantized = weights_only(graph_module)
    rounded = adaround(graph_module, quantized, [values], progress=False)
    held_out = values[7:]
    # Channel by channel, as the choice is made.
    errors = [
        (float_outputs(graph_module, held_out) - float_outputs(each, held_out)).square().mean((0, 2, 3))
        for each in (rounded, quantized)
    ]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
    nearest = quantized.get_submodule("layer").weight_quantizer(quantized.get_submodule("layer").weight)
    kept = (rounded.get_submodule("layer").weight == nearest).flatten(1).all(1)
    assert torch.equal(kept, errors[0] >= errors[1] * (1 - 1e-5))


def test_layers_that_are_used_twice_are_rounded_to_nearest():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)

        def forward(self, x):
            return self.last(self.conv(self.conv(x)))

    torch.manual_seed(0)
    graph_module = trace(Twice())
    quantized = quantize_post_training(graph_module, TARGET, [images()], progress=False)
    rounded = adaround(graph_module, quantized, [images()], iterations=20, progress=False)
    layer = quantized.get_submodule("conv")
    assert torch.equal(rounded.get_submodule("conv").weight, layer.weight_quantizer(layer.weight))


def test_layers_whose_weights_stay_float_are_left_alone():
    graph_module = trace(Net())
    quantized = quantize_post_training(graph_module, TARGET, [images()], progress=False)
    set_enabled(quantized, False, sites=["conv.weight"])
    rounded = adaround(graph_module, quantized, [images()], iterations=20, progress=False)
    assert torch.equal(rounded.get_submodule("conv").weight, graph_module.get_submodule("conv").weight)
    assert not torch.equal(rounded.get_submodule("up").weight, graph_module.get_submodule("up").weight)


def test_wrong_arguments_are_errors():
    graph_module = trace(Net())
    quantized = quantize_post_training(graph_module, TARGET, [images()], progress=False)
    with pytest.raises(ConfigError, match="needs calibration images"):
        adaround(graph_module, quantized, [])
    with pytest.raises(ConfigError, match="iterations: received 0"):
        adaround(graph_module, quantized, [images()], iterations=0)
    with pytest.raises(ConfigError, match="the float network has no layer 'stem'"):
        adaround(trace(nn.Sequential(nn.Conv2d(3, 1, 1))), quantized, [images()])
    with pytest.raises(ConfigError, match="no quantized layers"):
        adaround(graph_module, graph_module, [images()])
    weights = dataclasses.replace(TARGET.weights, dtype="uint8", symmetric=False)
    asymmetric = fake_quantize(graph_module, dataclasses.replace(TARGET, weights=weights))
    with pytest.raises(ConfigError, match="received an asymmetric weight format"):
        adaround(graph_module, asymmetric, [images()])
