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
        torch.testing.assert_close(one, other)


def test_layers_in_float_are_left_to_autocast():
    quantized, images = quantized_and_images()
    set_enabled(quantized, False)
    with torch.autocast("cpu", torch.bfloat16):
        assert quantized.get_submodule("conv")(images).dtype == torch.bfloat16
