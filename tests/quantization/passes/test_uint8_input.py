"""Pixels as input: the same codes, including the border."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.backends.vendor_ptq import vendor_ptq
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import InputLayout
from depth_distill.quantization.passes.uint8_input import fold_normalization
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target
from depth_distill.types import IMAGENET_MEAN, IMAGENET_STD

LAYOUT = InputLayout(16, 24, IMAGENET_MEAN, IMAGENET_STD, uint8=True)


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (2, 3, 16, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalized(pixels):
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels / 255 - mean) / std


def network(kernel=7, stride=2, padding=3):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, kernel, stride, padding), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    return trace(layers)


def test_pixels_come_back_exactly(pixels):
    assert torch.equal(LAYOUT.prepare(normalized(pixels)), pixels)


@pytest.mark.parametrize("shape", [(7, 2, 3), (3, 1, 1), (3, 2, 0)])
def test_the_codes_are_the_same_at_the_border_too(shape, pixels):
    plain = network(*shape)
    folded = fold_normalization(plain, IMAGENET_MEAN, IMAGENET_STD)
    with torch.no_grad():
        expected, found = plain(normalized(pixels)), folded(pixels.float())
    # Sums of float32 products of up to 255 with weights: a few units in the last place of the largest.
    assert torch.allclose(found, expected, atol=1e-5)
    assert plain.get_submodule("0").in_channels == 3  # not changed


def test_pixels_and_the_fourth_channel_are_on_the_grid(pixels):
    folded = fold_normalization(network(), IMAGENET_MEAN, IMAGENET_STD)
    quantized = quantize_post_training(folded, load_target("per-tensor-minmax"), [pixels.float()], progress=False)
    cat = next(each for name, each in quantizers(quantized).items() if "cat" in name)
    assert [float(each) for each in cat.constants()] == [1.0, 0.0]


def test_the_file_takes_uint8(pixels, tmp_path):
    folded = fold_normalization(network(), IMAGENET_MEAN, IMAGENET_STD)
    path = export_float(folded, tmp_path / "a.onnx", FileSpec.like(pixels[:1].float(), uint8_input=True))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    (found,) = session.run(None, {"image": pixels[:1].numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), folded(pixels[:1].float()), atol=1e-5)


def test_the_vendors_ptq_keeps_every_pixel(pixels, tmp_path):
    """The fourth channel shows calibration 255, so that pixels keep scale 1 however dark the images are."""
    dark = pixels // 2
    folded = fold_normalization(network(), IMAGENET_MEAN, IMAGENET_STD)
    file = export_float(folded, tmp_path / "a.onnx", FileSpec.like(pixels[:1].float(), uint8_input=True))
    vendor = vendor_ptq(file, [LAYOUT.prepare(normalized(dark))], tmp_path / "v.onnx")
    model = onnx.load(vendor)
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    (of_cat,) = (node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "cat")
    assert [float(stored[name]) for name in of_cat.input[1:]] == [1.0, 0.0]
    session = onnxruntime.InferenceSession(vendor, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": dark[:1].numpy()})
    with torch.no_grad():
        expected = folded(dark[:1].float())
    # Weights of 8 bits in two layers: a few per cent of the range.
    assert (torch.from_numpy(found) - expected).abs().mean() < 0.03 * (expected.max() - expected.min())


def test_an_image_that_two_layers_read_cannot_be_folded():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1)

        def forward(self, image):
            return self.one(image) + self.other(image)

    with pytest.raises(ConfigError, match="read by one convolution"):
        fold_normalization(trace(Two()), IMAGENET_MEAN, IMAGENET_STD)
