"""Edits of ONNX files, on files that torch's exporter wrote and on graphs made by hand."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.edits import resize_by_scales, to_opset, with_own_zero_points, with_shapes
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.opsets.rewriting import OpsetError
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.quantization.graph.trace import trace
from tests.export.networks import calibrated, smooth_images

SIZE = (16, 24)


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, features):
        return self.act(features + self.conv(features))


class Net(nn.Module):
    """Resizes a map to the size of the one that it is added to, as many decoders do."""

    def __init__(self, mode="nearest"):
        super().__init__()
        self.mode = mode
        self.stem = nn.Conv2d(3, 4, 3, 2, padding=1)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.skip = nn.Conv2d(3, 4, 1)
        self.head = nn.Sequential(nn.Conv2d(8, 2, 1), nn.GELU())

    def forward(self, image):
        skip = self.skip(image)
        up = F.interpolate(self.blocks(self.stem(image)), size=skip.shape[-2:], mode=self.mode)
        return self.head(torch.cat([up, skip], dim=1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return trace(Net())


def resized(before, after, **attributes):
    """A model of one Resize to ``sizes``."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, before)
    codes = helper.make_tensor_value_info("codes", TensorProto.FLOAT, after)
    node = helper.make_node("Resize", ["image", "", "", "sizes"], ["codes"], "up", **attributes)
    sizes = numpy_helper.from_array(np.array(after, np.int64), "sizes")
    graph = helper.make_graph([node], "graph", [image], [codes], [sizes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def convention(node):
    words = [each for each in node.attribute if each.type == each.STRING]
    attributes = {each.name: helper.get_attribute_value(each).decode() for each in words}
    return attributes["coordinate_transformation_mode"], attributes["nearest_mode"]


def run(model, image):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def test_nodes_and_tensors_are_called_after_layers(net, tmp_path):
    model = onnx.load(export_float(net, tmp_path / "f.onnx", FileSpec.like(torch.zeros(1, 3, *SIZE))))
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    for name in ("stem", "blocks.0.conv", "blocks.0.add", "blocks.0.act", "blocks.1.add", "skip", "cat", "head.0"):
        assert name in names
    producers = {node.name: node for node in model.graph.node}
    assert producers["blocks.0.act"].op_type == "Relu"
    assert list(producers["blocks.0.act"].output) == ["blocks.0.act"]
    assert list(producers["blocks.0.conv"].input) == ["stem", "blocks.0.conv.weight", "blocks.0.conv.bias"]
    assert [each.name for each in model.graph.output] == ["codes"]
    assert [node.name for node in model.graph.node if "codes" in node.output] == ["head.1"]
    constants = {each.name for each in model.graph.initializer} - set(net.state_dict())
    assert all(any(name.startswith(f"{node}.") for node in names) for name in constants), constants


def test_the_quantized_file_names_the_same_layers(net, tmp_path):
    example = torch.zeros(1, 3, *SIZE)
    plain = onnx.load(export_float(net, tmp_path / "f.onnx", FileSpec.like(example)))
    quantized = calibrated(net, "per-tensor-minmax", [smooth_images(2, SIZE)])
    model = onnx.load(export_qdq(quantized, tmp_path / "q.onnx", FileSpec.like(example)))
    of_float = {node.name: node.op_type for node in plain.graph.node}
    of_quantized = {node.name: node.op_type for node in model.graph.node}
    assert of_float.items() <= of_quantized.items()


@pytest.mark.parametrize("opset", [9, 10, 11, 13, 17, 18, 20, 21])
def test_the_opset_is_what_was_asked_for(net, opset, tmp_path):
    image = smooth_images(1, SIZE)
    model = onnx.load(export_float(net, tmp_path / "f.onnx", FileSpec.like(image, opset=opset)))
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]
    onnx.checker.check_model(model, full_check=True)
    with torch.no_grad():
        expected = net(image).numpy()
    # Float32 through four layers with sums of 36 products.
    np.testing.assert_allclose(run(model, image.numpy()), expected, rtol=1e-4, atol=1e-5)


def test_a_quantized_file_goes_down_to_10_too(net, tmp_path):
    image = smooth_images(1, SIZE)
    quantized = calibrated(net, "per-tensor-minmax", [image])
    files = [
        onnx.load(export_qdq(quantized, tmp_path / f"{opset}.onnx", FileSpec.like(image, opset=opset)))
        for opset in (10, 19)
    ]
    assert [each.opset_import[0].version for each in files] == [10, 19]
    np.testing.assert_array_equal(*(run(each, image.numpy()) for each in files))
    with pytest.raises(OpsetError, match="opset 9 has no QuantizeLinear, it needs 10") as caught:
        export_qdq(quantized, tmp_path / "9.onnx", FileSpec.like(image, opset=9))
    assert caught.value.needed == 10
    assert not (tmp_path / "9.onnx").exists()


def test_names_of_layers_stay_in_an_older_opset(net, tmp_path):
    model = onnx.load(export_float(net, tmp_path / "f.onnx", FileSpec.like(torch.zeros(1, 3, *SIZE), opset=20)))
    older = to_opset(model, 9)
    names = [node.name for node in model.graph.node]
    assert [node.name for node in older.graph.node if node.name in names] == names
    assert {"Gelu", "Resize"} <= {node.op_type for node in model.graph.node}
    assert {"Erf", "Upsample"} <= {node.op_type for node in older.graph.node}
    assert older.ir_version == 4
    assert to_opset(to_opset(model, 17), 18).opset_import[0].version == 18


def test_every_shape_is_known(net, tmp_path):
    model = onnx.load(export_float(net, tmp_path / "f.onnx", FileSpec.like(torch.zeros(1, 3, *SIZE), opset=17)))
    known = {each.name: each for each in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        for name in node.output:
            assert all(dim.dim_value > 0 for dim in known[name].type.tensor_type.shape.dim)
    batch = resized([1, 1, 2, 2], [1, 1, 4, 4])
    batch.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    batch.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    relu = helper.make_node("Relu", ["image"], ["positive"], "relu")
    batch.graph.node.insert(0, relu)
    with pytest.raises(ConfigError, match=r"relu \(Relu\): the shape of positive is not static"):
        with_shapes(batch)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_resize_to_a_size_becomes_resize_by_two(mode, tmp_path):
    torch.manual_seed(0)
    net, image = trace(Net(mode)), smooth_images(1, SIZE)
    file = export_float(net, tmp_path / "f.onnx", FileSpec.like(image))
    model = onnx.load(file)
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    (node,) = (each for each in model.graph.node if each.op_type == "Resize")
    assert len(node.input) == 3
    assert stored[node.input[2]].tolist() == [1, 1, 2, 2]
    if mode == "nearest":
        assert convention(node) == ("asymmetric", "floor")
    with torch.no_grad():
        np.testing.assert_allclose(run(model, image.numpy()), net(image).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("factor", [2, 4])
def test_half_pixels_become_asymmetric_and_the_pixels_stay(coordinates, rounding, factor):
    attributes = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    model = resized([1, 2, 3, 5], [1, 2, 3 * factor, 5 * factor], mode="nearest", **attributes)
    image = np.random.default_rng(0).normal(size=(1, 2, 3, 5)).astype(np.float32)
    edited = resize_by_scales(model)
    assert convention(edited.graph.node[0]) == ("asymmetric", "floor")
    np.testing.assert_array_equal(run(edited, image), run(model, image))
    assert list(model.graph.node[0].input) == ["image", "", "", "sizes"]  # what was given is left alone
    assert [each.name for each in edited.graph.initializer] == ["up.scales"]


def test_a_convention_that_picks_other_pixels_is_kept():
    attributes = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "floor"}
    model = resized([1, 1, 3, 5], [1, 1, 6, 10], mode="nearest", **attributes)
    image = np.random.default_rng(0).normal(size=(1, 1, 3, 5)).astype(np.float32)
    edited = resize_by_scales(model)
    assert convention(edited.graph.node[0]) == ("half_pixel", "floor")
    np.testing.assert_array_equal(run(edited, image), run(model, image))


def test_other_factors_are_left_as_they_are():
    model = resized([1, 1, 2, 3], [1, 1, 6, 9], mode="nearest")
    assert list(resize_by_scales(model).graph.node[0].input) == ["image", "", "", "sizes"]


def test_axes_of_sizes_do_not_stay_with_scales_of_all_axes():
    model = resized([1, 2, 3, 5], [1, 2, 6, 10], mode="nearest", axes=[2, 3], keep_aspect_ratio_policy="stretch")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([6, 10], np.int64), "sizes"))
    image = np.random.default_rng(0).normal(size=(1, 2, 3, 5)).astype(np.float32)
    np.testing.assert_array_equal(run(resize_by_scales(model), image), run(model, image))


def test_an_own_zero_point_takes_no_name_that_is_there():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 13]>
        g (float[2] image) => (float[2] y)
        <float s = {0.5}, int8 z = {3}, int8[2] a = {1, 2}, int8[2] b = {3, 4}, float[2] NAME = {7, 7}>
        { p = DequantizeLinear(a, s, z)  q = DequantizeLinear(b, s, z)  u = Add(p, q)  v = Add(u, image)
          y = Add(v, NAME) }""")
    for each in (*model.graph.initializer, *model.graph.node):
        each.name = "b.zero_point" if each.name == "NAME" else each.name
    model.graph.node[-1].input[1] = "b.zero_point"
    own = with_own_zero_points(model)
    names = [each.name for each in own.graph.initializer]
    assert len(set(names)) == len(names) == 6
    assert own.graph.node[1].input[2] == "b.zero_point_1"
    found, expected = (run(each, np.zeros(2, np.float32))[0] for each in (own, model))
    np.testing.assert_array_equal(found, expected)
