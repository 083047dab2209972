"""Layers with rounded weights compute on the grid that they were rounded to, whatever the precision around them."""

import pytest
import torch
from torch import nn

from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.fake_quantize import set_enabled
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.simulate.quantized_layers import QuantizedConv2d
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


@pytest.mark.parametrize("device", ["cpu", ON_GPU])
def test_under_autocast_a_fake_quantized_network_is_what_it_is_in_float32(device):
    quantized, images = quantized_and_images()
    quantized, images = quantized.to(device), images.to(device)
    results = []
    for autocast in (False, True):
        quantized.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            codes = quantized(images)
        codes.square().sum().backward()
        results.append((codes.detach(), [each.grad.clone() for each in quantized.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert other.dtype == torch.float32
        assert (one - other).norm() < 0.01 * one.norm()  # those of convolutions are products in bfloat16


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"padding": (0, 2), "stride": 2, "dilation": (1, 2)}, {"padding": 1, "bias": False}]
)
def test_gradients_of_a_convolution_under_autocast_are_those_of_float32_to_eight_bits(options):
    torch.manual_seed(0)
    conv = QuantizedConv2d(4, 6, 3, **options)
    image = torch.randn(2, 4, 9, 11, requires_grad=True)
    inputs = [image, conv.weight] + [conv.bias] * (conv.bias is not None)
    arguments = inputs if conv.bias is not None else [*inputs, None]
    exact = conv.apply_to(*arguments)
    short = conv.apply_with_gradients_in(torch.bfloat16, *arguments)
    assert torch.equal(exact, short)
    direction = torch.randn_like(exact)
    for one, other in zip(
        torch.autograd.grad(exact, inputs, direction), torch.autograd.grad(short, inputs, direction), strict=True
    ):
        assert (one - other).norm() < 0.01 * one.norm()


@pytest.mark.parametrize("options", [{"groups": 4}, {"padding": 1, "padding_mode": "reflect"}, {"padding": "same"}])
def test_other_convolutions_have_their_gradients_in_float32(options):
    torch.manual_seed(0)
    conv, image = QuantizedConv2d(4, 8, 3, **options), torch.randn(2, 4, 9, 11)
    exact, short = (
        conv.apply_to(image, conv.weight, conv.bias),
        conv.apply_with_gradients_in(torch.bfloat16, image, conv.weight, conv.bias),
    )
    (one,), (other,) = (torch.autograd.grad(each.square().sum(), [conv.weight]) for each in (exact, short))
    assert torch.equal(one, other)


def test_layers_in_float_are_left_to_autocast():
    quantized, images = quantized_and_images()
    set_enabled(quantized, False)
    with torch.autocast("cpu", torch.bfloat16):
        assert quantized.get_submodule("conv")(images).dtype == torch.bfloat16
