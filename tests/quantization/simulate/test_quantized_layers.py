"""Layers with rounded weights compute on the grid that they were rounded to, whatever the precision around them."""

import pytest
import torch
from torch import nn

from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.fake_quantize import set_enabled
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target

ON_GPU = pytest.param("cuda", marks=pytest.mark.gpu)


class EveryLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.linear = nn.Linear(4, 1)

    def forward(self, image):
        return self.linear(self.up(torch.relu(self.conv(image))).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).sigmoid()


def quantized_and_images():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    return quantize_post_training(trace(EveryLayer()), load_target("per-tensor-minmax"), [images], False), images


def quantized_conv(conv):
    torch.manual_seed(0)
    images = torch.randn(2, 4, 9, 11)
    graph = trace(nn.Sequential(conv))
    return quantize_post_training(graph, load_target("per-tensor-minmax"), [images], False).get_submodule("0"), images


def codes_and_gradients(module, images, dtype=None):
    module.zero_grad()
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        codes = module(images)
    codes.square().sum().backward()
    return codes.detach(), {name: each.grad.clone() for name, each in module.named_parameters()}


def apart(one, other):
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("device", ["cpu", ON_GPU])
def test_under_autocast_a_fake_quantized_network_is_what_it_is_in_float32(device):
    quantized, images = quantized_and_images()
    quantized, images = quantized.to(device), images.to(device)
    exact, short = (codes_and_gradients(quantized, images, dtype) for dtype in (None, torch.bfloat16))
    assert torch.equal(exact[0], short[0])
    for name, gradient in exact[1].items():
        assert short[1][name].dtype == torch.float32
        assert apart(gradient, short[1][name]) < 0.01


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"padding": (0, 2), "stride": 2, "dilation": (1, 2)}, {"padding": 1, "bias": False}]
)
def test_gradients_of_a_convolution_are_products_in_bfloat16_under_autocast(options, padding_mode):
    quantized, images = quantized_conv(nn.Conv2d(4, 6, 3, padding_mode=padding_mode, **options))
    exact, short = (codes_and_gradients(quantized, images, dtype) for dtype in (None, torch.bfloat16))
    assert torch.equal(exact[0], short[0])
    assert 0 < apart(exact[1]["weight"], short[1]["weight"]) < 0.01
    assert "bias" not in exact[1] or apart(exact[1]["bias"], short[1]["bias"]) < 1e-6
    again = codes_and_gradients(quantized, images)  # nothing is left behind
    assert torch.equal(again[1]["weight"], exact[1]["weight"])


def test_gradients_of_an_image_are_products_in_bfloat16_as_well():
    quantized, images = quantized_conv(nn.Conv2d(4, 6, 3, padding=1))
    quantized.weight.requires_grad_(False)
    quantized.bias.requires_grad_(False)
    found = []
    for enabled in (False, True):
        image = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            quantized(image).square().sum().backward()
        found.append(image.grad)
    assert 0 < apart(*found) < 0.01


@pytest.mark.parametrize(
    ("options", "dtype"), [({"groups": 4}, torch.bfloat16), ({"padding": "same"}, torch.bfloat16), ({}, torch.float16)]
)
def test_of_several_groups_and_in_float16_they_are_those_of_float32(options, dtype):
    quantized, images = quantized_conv(nn.Conv2d(4, 8, 3, **options))
    exact, short = (codes_and_gradients(quantized, images, each) for each in (None, dtype))
    assert torch.equal(exact[1]["weight"], short[1]["weight"])


def test_layers_in_float_are_left_to_autocast():
    quantized, images = quantized_and_images()
    set_enabled(quantized, False)
    with torch.autocast("cpu", torch.bfloat16):
        assert quantized.get_submodule("conv")(images).dtype == torch.bfloat16
