import dataclasses

import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from depth_distill.errors import ConfigError, DataError
from depth_distill.export.backends.runtime import OnnxFile, OnnxNetwork
from depth_distill.export.backends.vendor_ptq import inexpressible, vendor_ptq
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.target.target import load_target
from tests.export.networks import calibrated, smooth_images

SIZE = (16, 24)


@pytest.fixture
def float_file(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Sigmoid())
    return network, export_float(network, tmp_path / "float.onnx", FileSpec.like(torch.zeros(1, 3, *SIZE)))


def test_its_scales_are_those_of_our_min_max(float_file, tmp_path):
    network, path = float_file
    images = smooth_images(8, SIZE)
    vendor_ptq(path, images.split(3), tmp_path / "vendor.onnx")
    model = onnx.load(tmp_path / "vendor.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    ours = calibrated(trace(network), "per-tensor-minmax", [images]).eval()
    with torch.no_grad():
        expected = ours(images)
    step = ours.get_submodule("quantizers._3").scale.item()
    # As written in the file: fused, uint8 times int8 saturates on CPUs without VNNI.
    found = OnnxNetwork(tmp_path / "vendor.onnx", optimize=False, threads=1)(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01 * step)  # at most one code apart


def test_no_calibration_images(float_file, tmp_path):
    with pytest.raises(DataError, match="calibration set is empty"):
        vendor_ptq(float_file[1], [], tmp_path / "vendor.onnx")
    assert not (tmp_path / "vendor.onnx").exists()


def test_per_channel_gives_each_output_channel_a_scale(float_file, tmp_path):
    vendor_ptq(float_file[1], [smooth_images(2, SIZE)], tmp_path / "vendor.onnx", per_channel=True)
    model = onnx.load(tmp_path / "vendor.onnx")
    assert (4,) in {tuple(each.dims) for each in model.graph.initializer if each.name.endswith("_scale")}


@pytest.mark.parametrize("opset", [9, 11])
def test_a_float_file_with_an_old_opset_gives_the_same(opset, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU6(), nn.Upsample(scale_factor=2), nn.Sigmoid())
    found = []
    for version in (opset, 19):
        spec = FileSpec.like(torch.zeros(1, 3, *SIZE), opset=version)
        path = export_float(network, tmp_path / f"{version}.onnx", spec)
        vendor_ptq(path, [smooth_images(2, SIZE)], tmp_path / f"{version}.int8.onnx")
        found.append(OnnxNetwork(tmp_path / f"{version}.int8.onnx", False, 1)(smooth_images(2, SIZE)))
    assert torch.equal(*found)


def test_any_file_with_one_input_is_taken(tmp_path):
    torch.manual_seed(0)
    graph = trace(nn.Conv2d(5, 2, 1))
    weight, bias = (numpy_helper.from_array(each.detach().numpy(), name) for name, each in graph.named_parameters())
    weight.name, bias.name = "w", "b"
    info = onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Conv", ["theirs", "w", "b"], ["y"]), onnx.helper.make_node("Tanh", ["y"], ["z"])],
            "theirs",
            [info("theirs", onnx.TensorProto.FLOAT, [1, 5, 4, 4])],
            [info(name, onnx.TensorProto.FLOAT, [1, 2, 4, 4]) for name in ("y", "z")],
            [weight, bias],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 11)],
    )
    model.ir_version = 7
    onnx.save(model, tmp_path / "theirs.onnx")
    samples = torch.randn(6, 5, 4, 4)
    expected = OnnxFile(tmp_path / "theirs.onnx")(samples)
    assert list(expected) == ["y", "z"]
    assert torch.allclose(expected["y"], graph(samples), atol=1e-5)
    for target in ("per-tensor-minmax", "aiware-apache6"):
        file = vendor_ptq(tmp_path / "theirs.onnx", [samples], tmp_path / "q.onnx", target=load_target(target))
        found = OnnxFile(file, optimize=False)(samples)
        for name in expected:
            assert 0 < (found[name] - expected[name]).abs().max() < 0.03 * expected[name].abs().max()


def test_formats_that_it_does_not_have_are_named():
    assert inexpressible(load_target("per-tensor-minmax")) is None
    assert inexpressible(load_target("per-channel")) is None
    assert inexpressible(load_target("symmetric-pow2")) == "its scales are powers of two"
    target = load_target("per-tensor-minmax")
    assert inexpressible(dataclasses.replace(target, calibrator="mse")) == "its calibrator is mse"
    assert inexpressible(dataclasses.replace(target, shared_scales=("concat",))) == "it ties scales of concat"
    assert inexpressible(load_target("weights-int4")) == "its weights are int4"
    own = dataclasses.replace(target, dtypes={"head.*": "uint4"})
    assert inexpressible(own) == "it has dtypes of their own for head.*"


def test_values_that_an_integer_input_cannot_hold_are_refused(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (uint8[1,3,4,4] x) => (float[1,3,4,4] y) { y = Cast<to = 1>(x) }'
    )
    onnx.save(model, tmp_path / "pixels.onnx")
    whole = torch.arange(48.0).view(1, 3, 4, 4)
    assert torch.equal(OnnxFile(tmp_path / "pixels.onnx")(whole)["y"], whole)
    for wrong in (whole / 255, whole - 1, whole * 100):
        with pytest.raises(ConfigError, match=r"the input 'x' is uint8, received values from .* uint8 cannot hold"):
            OnnxFile(tmp_path / "pixels.onnx")(wrong)
        with pytest.raises(ConfigError, match="the input 'x' is uint8"):
            vendor_ptq(tmp_path / "pixels.onnx", [wrong], tmp_path / "q.onnx")
