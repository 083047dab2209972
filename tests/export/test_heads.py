"""Every head through placement, fake quantization, float ONNX, QDQ and the vendor's PTQ."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.backends.vendor_ptq import vendor_ptq
from depth_distill.export.compare.parity import share_within_one_step
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.models import (
    IntegerFractionalHead,
    SingleHead,
)
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.equalize import channel_ranges, equalize
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.simulate.fake_quantize import placement, quantizers, set_enabled
from depth_distill.quantization.target.target import load_target
from tests.export.networks import calibrated, smooth_images
from tests.models.networks import spread_network
from tests.quantization.networks import with_thermometer

SIZE = (32, 64)
TARGET = load_target("per-tensor-minmax")


def network(output="clip", head=None):
    head = head or (lambda channels, depth_range: SingleHead(channels, depth_range, "log", output))
    return spread_network(head, smooth_images(6, SIZE))


NETWORKS = {
    "single, clip": network,
    "single, sigmoid": lambda: network("sigmoid"),
    "integer, fraction": lambda: network(head=IntegerFractionalHead),
    "thermometer": lambda: with_thermometer(network(), 8),
    "thermometer, logit": lambda: with_thermometer(network("sigmoid"), 4),
}


@pytest.fixture(params=NETWORKS)
def net(request):
    return NETWORKS[request.param]()


@pytest.mark.slow
def test_every_head_survives_every_path(net, tmp_path):
    images = smooth_images(6, SIZE)
    graph_module = fold(trace(net))
    with torch.no_grad():
        codes = graph_module(images)
        expected_m = net.predict_depth(images)
    torch.testing.assert_close(net.codec.decode(codes), expected_m, rtol=1e-3, atol=1e-3)
    outputs = [site for site in placement(graph_module, TARGET) if site.kind == "output"]
    assert len(outputs) == 1
    assert outputs[0].name.startswith("head.")

    float_file = export_float(graph_module, tmp_path / "float.onnx", FileSpec.like(images[:1]))
    found_m = net.codec.decode(OnnxNetwork(float_file, threads=1)(images))
    torch.testing.assert_close(found_m, expected_m, rtol=1e-3, atol=1e-3)
    vendor = OnnxNetwork(vendor_ptq(float_file, [images], tmp_path / "vendor.onnx"), threads=1)
    quantized = calibrated(graph_module, "per-tensor-minmax", [images]).eval()
    qdq = OnnxNetwork(export_qdq(quantized, tmp_path / "qdq.onnx", FileSpec.like(images[:1])), threads=1)
    assert vendor(images).shape == qdq(images).shape == codes.shape
    step = next(float(each.scale) for each in quantizers(quantized).values() if each.kind == "output")
    # Both round in their own ways: almost all codes are neighbours.
    assert share_within_one_step(quantized, qdq, [images], step) > 0.9
    # Two quantizers of one kind: the median pixel of INT8 stays near the float depth, whatever the head.
    for each in (vendor(images), qdq(images)):
        ratio = net.codec.decode(each) / expected_m
        assert 0.8 < ratio.median() < 1.25


def test_rounding_only_the_output_costs_what_the_codec_says(net):
    images = smooth_images(6, SIZE)
    graph_module = fold(trace(net))
    quantized = calibrated(graph_module, "per-tensor-minmax", [images]).eval()
    set_enabled(quantized, False)
    set_enabled(quantized, True, kinds=["output"])
    with torch.no_grad():
        depth_m, moved_m = (net.codec.decode(each(images)) for each in (graph_module, quantized))
    error_mm = 1000 * (moved_m - depth_m).abs()
    worst_mm = torch.from_numpy(net.codec.host.worst_error_mm(depth_m.numpy()))
    # Steps are those around a depth, not exactly at it. Integer and fraction of an untrained network disagree by about
    # half a metre in some pixels, where unwrapping can go either way.
    assert (error_mm <= 2 * worst_mm + 0.1).float().mean() > 0.97


def test_a_thermometer_is_finer_than_its_single_head():
    images = smooth_images(6, SIZE)
    drift = {}
    for num_codes in (1, 8, 16):
        net = network() if num_codes == 1 else with_thermometer(network(), num_codes)
        graph_module = fold(trace(net))
        quantized = calibrated(graph_module, "per-tensor-minmax", [images]).eval()
        set_enabled(quantized, False)
        set_enabled(quantized, True, kinds=["output"])
        with torch.no_grad():
            moved = net.codec.decode(quantized(images)) - net.codec.decode(graph_module(images))
        drift[num_codes] = moved.abs().mean().item()
    assert drift[8] < drift[1] / 5
    assert drift[16] < drift[8] / 1.7


@pytest.mark.parametrize("num_codes", [2, 8])
def test_a_clip_pins_the_output_range_whatever_the_pre_activation_is(num_codes, tmp_path):
    net = with_thermometer(network(), num_codes)
    graph_module = fold(trace(net))
    images = smooth_images(6, SIZE)
    seen = []
    graph_module.get_submodule("head.conv").register_forward_hook(lambda *call: seen.append(call[2].abs().max()))
    with torch.no_grad():
        graph_module(images)
    assert seen[0] > 1.5
    quantized = calibrated(graph_module, "per-tensor-minmax", [images])
    output = next(each for each in quantizers(quantized).values() if each.kind == "output")
    assert (output.low.item(), output.high.item()) == (0.0, 1.0)
    float_file = export_float(graph_module, tmp_path / "float.onnx", FileSpec.like(images[:1]))
    model = onnx.load(vendor_ptq(float_file, [images], tmp_path / "vendor.onnx"))
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    last = next(node for node in model.graph.node if "codes" in node.output)
    assert last.op_type == "DequantizeLinear"
    assert stored[last.input[1]] == np.float32(1 / 255)
    assert stored[last.input[2]] == 0


def test_equalization_leaves_the_function_of_every_head_alone(net):
    images = smooth_images(4, SIZE)
    graph_module = fold(trace(net))
    found = equalize(graph_module, channel_ranges(graph_module, [images])).graph_module
    with torch.no_grad():
        expected_m, found_m = (net.codec.decode(each(images)) for each in (graph_module, found))
    assert not torch.equal(found.head.conv.weight, graph_module.head.conv.weight)
    # Float32 through a network whose layers were rescaled; unwrapping may tip over in single pixels.
    assert ((found_m / expected_m - 1).abs() < 1e-2).float().mean() > 0.999
