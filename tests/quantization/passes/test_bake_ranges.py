"""Learned ranges as clips in the float file, which min/max calibration finds."""

from dataclasses import replace

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.backends.vendor_ptq import vendor_ptq
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.bake_ranges import bake_ranges
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target
from tests.export.networks import smooth_images

TARGET = load_target("per-tensor-minmax")
SIZE = (16, 16)


class Net(nn.Module):
    """Every kind of operator that a range can lie behind."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.act = activation()
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)
        self.output = nn.Sigmoid()

    def forward(self, image):
        skip = self.act(self.stem(image))
        return self.output(self.head(torch.cat([skip + self.branch(skip), skip], dim=1)))


def graph_of(activation=nn.ReLU):
    torch.manual_seed(0)
    return trace(Net(activation))


SHARES = {"act": 0.5, "branch": 0.25, "add": 0.25, "head": 0.1}


def learned(graph, target=TARGET):
    """Ranges as a student has them: ends of the codes. So much narrower than min/max that all of them saturate."""
    network = quantize_post_training(graph, target, [smooth_images(4, SIZE)], progress=False)
    for site, share in SHARES.items():
        each = quantizers(network)[site]
        each.set_range(share * each.low, share * each.high)
    return {site: quantizers(network)[site].bounds for site in SHARES}


def grids(path):
    """Scale and zero point of each QuantizeLinear by the tensor that it rounds."""
    model = onnx.load(path)
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    return {
        node.input[0]: tuple(float(stored[name]) for name in node.input[1:])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU, nn.LeakyReLU])
def test_the_vendors_calibration_finds_scale_and_zero_point_of_every_site(activation, tmp_path):
    graph, images = graph_of(activation), smooth_images(4, SIZE)
    ranges = learned(graph)
    expected = {site: ((high - low) / 255, round(-low / (high - low) * 255)) for site, (low, high) in ranges.items()}
    baked = bake_ranges(graph, TARGET, ranges)
    file = export_float(baked, tmp_path / "float.onnx", FileSpec.like(images[:1]))
    plain = export_float(graph, tmp_path / "plain.onnx", FileSpec.like(images[:1]))
    found = grids(vendor_ptq(file, [images], tmp_path / "v.onnx"))
    before = grids(vendor_ptq(plain, [images], tmp_path / "p.onnx"))
    for site, of_site in expected.items():
        # A ReLU becomes its clip; elsewhere there is one behind.
        tensor = site if activation is nn.ReLU and site == "act" else f"{site}_clip"
        assert found[tensor] == pytest.approx(of_site, rel=1e-6), site
        assert before[site][0] == pytest.approx(of_site[0] / SHARES[site], rel=0.02), site


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU])
@pytest.mark.parametrize("target", ["per-tensor-minmax", "symmetric-pow2"])
def test_our_own_calibration_finds_them_too_and_rounds_nothing_twice(activation, target):
    target = load_target(target)
    graph = graph_of(activation)
    ranges = learned(graph, target)
    # Twice the images: rounding a scale up to a power of two can double a range.
    images = 2 * smooth_images(4, SIZE)
    found = quantizers(quantize_post_training(bake_ranges(graph, target, ranges), target, [images], progress=False))
    assert len(found) == len(quantizers(fake_quantize(graph, target)))
    for site, (low, high) in ranges.items():
        scale, zero_point = found[site if site in found else f"{site}_clip"].constants()
        codes = target.activations
        assert float(scale) == pytest.approx((high - low) / 255, rel=1e-6), site
        assert int(zero_point) == (0 if codes.symmetric else round(-low / float(scale))), site


def test_the_lowest_code_of_a_symmetric_range_is_not_used():
    symmetric = load_target("symmetric-pow2")
    target = replace(symmetric, activations=replace(symmetric.activations, power_of_two=False))
    graph = graph_of()
    ranges = {"add": (-128 * 0.01, 127 * 0.01)}
    found = quantize_post_training(bake_ranges(graph, target, ranges), target, [20 * smooth_images(4, SIZE)])
    # Not 0.01 * 128 / 127.
    assert float(quantizers(found)["add_clip"].scale) == pytest.approx(0.01, rel=1e-6)


def test_a_wide_range_changes_nothing():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.six = nn.Conv2d(3, 4, 1), nn.ReLU6()
            self.two, self.clip = nn.Conv2d(4, 1, 1), nn.Hardtanh(0.0, 1.0)

        def forward(self, image):
            return self.clip(self.two(self.six(self.one(image))))

    torch.manual_seed(0)
    graph = trace(Wide())
    nn.init.normal_(graph.one.weight, std=20)
    images = smooth_images(2, SIZE)
    baked = bake_ranges(graph, TARGET, {"six": (0.0, 9.0), "clip": (-0.2, 1.5)})
    with torch.no_grad():
        assert graph.six(graph.one(images)).max() == 6
        assert torch.equal(baked(images), graph(images))
    assert isinstance(baked.six, nn.ReLU6)


def test_there_is_no_clip_where_no_value_could_reach_it():
    graph = graph_of()
    ranges = {"act": (0.0, 1.0), "add": (-0.5, 1.0), "cat": (-0.5, 1.0), "output": (0.0, 1.0)}
    baked = bake_ranges(graph, TARGET, ranges)
    clips = {name: module for name, module in baked.named_modules() if isinstance(module, nn.Hardtanh)}
    assert set(clips) == {"act", "add_clip"}
    narrow = bake_ranges(graph, TARGET, {**ranges, "cat": (-0.25, 0.75)})
    assert "cat_clip" in dict(narrow.named_modules())
    assert isinstance(graph.act, nn.ReLU)  # not changed


def test_an_activation_that_is_called_twice_has_two_ranges():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.act = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, image):
            return F.relu(self.act(self.two(self.act(self.one(image)))) + 1)

    torch.manual_seed(0)
    baked = bake_ranges(trace(Twice()), TARGET, {"act": (0.0, 0.5), "act_1": (0.0, 0.25), "relu": (0.0, 1.125)})
    clips = {name: module.max_val for name, module in baked.named_modules() if isinstance(module, nn.Hardtanh)}
    assert clips == {"act_clip": 0.5, "act_1_clip": 0.25, "relu_clip": 1.125}
    with torch.no_grad():
        assert baked(50 * smooth_images(1, SIZE)).max() == 1.125


def test_what_is_refused():
    with pytest.raises(ConfigError, match=r"no such site; did you mean 'act'\? expected one of image, act"):
        bake_ranges(graph_of(), TARGET, {"actt": (0.0, 1.0)})
    with pytest.raises(ConfigError, match="range of act, -1 to 0, contains no value that the network has"):
        bake_ranges(graph_of(), TARGET, {"act": (-1.0, 0.0)})
