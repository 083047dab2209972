"""ONNX files are read within their folder, and are as large as they claim."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from depth_distill.errors import ConfigError
from depth_distill.loading.onnx_importer.files import free_name, has_external_weights, opset_of, read_onnx, tensors_of
from tests.loading.onnx_importer.onnx_text import model_of, saved


def beside(path, location, **more):
    """A file whose weight lies elsewhere."""
    model = model_of("y = Add (x, w)", w=(1, 4, 8, 8))
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": 1024, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_the_folder_are_read(tmp_path):
    (tmp_path / "w.bin").write_bytes(np.ones(256, np.float32).tobytes())
    file = beside(tmp_path / "network.onnx", "w.bin")
    assert has_external_weights(file)
    model = read_onnx(file)
    assert numpy_helper.to_array(model.graph.initializer[0]).sum() == 256
    saved(tmp_path / "whole.onnx", model)
    assert not has_external_weights(tmp_path / "whole.onnx")


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "a/../../secret", "C:/secret", ""])
def test_no_file_outside_of_the_folder_is_read(tmp_path, location, weights):
    (tmp_path / "secret").write_bytes(b"s" * 1024)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="the weight 'w' lies in .* outside of its folder: do not use this file"):
        read_onnx(beside(folder / "network.onnx", location), weights)


@pytest.mark.parametrize("more", [{"length": 1 << 40}, {"offset": 1 << 40}, {"offset": -4}])
def test_more_than_the_file_has_is_refused(tmp_path, more):
    (tmp_path / "w.bin").write_bytes(np.ones(256, np.float32).tobytes())
    with pytest.raises(ConfigError, match="weights beside it cannot be read: External data"):
        read_onnx(beside(tmp_path / "network.onnx", "w.bin", **more))


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 20), (3, 3), (-1, 4)])
def test_a_weight_that_claims_another_shape_is_named(tmp_path, shape):
    model = model_of("y = Add (x, w)", w=(1, 4, 8, 8))
    model.graph.initializer[0].dims[:] = shape
    file = tmp_path / "network.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match=r"the weight 'w' claims the shape \[.*\], which it does not hold"):
        read_onnx(file)


def test_what_is_no_file_is_said_in_a_line(tmp_path):
    with pytest.raises(ConfigError, match="is a folder: expected an ONNX file"):
        read_onnx(tmp_path)
    whole = saved(tmp_path / "network.onnx", model_of("y = Conv (x, w)", w=(6, 4, 3, 3))).read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"half\.onnx is no ONNX file, or is truncated"):
        read_onnx(tmp_path / "half.onnx")


def test_tensors_in_branches_and_nodes_are_found():
    model = model_of("k = Constant <value = float[2] {1, 2}> () y = Add (x, k)", w=(1,))
    assert len(list(tensors_of(model))) == 2


def test_basics():
    assert opset_of(onnx.ModelProto()) == 1
    assert [free_name("a", taken) for taken in ((), {"a"}, {"a", "a_1"})] == ["a", "a_1", "a_2"]


def test_types_sizes_and_versions_that_do_not_exist_are_refused(tmp_path):
    for change, message in (
        (lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 77), "'x' has the type 77"),
        (lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", -4), "-4, 8"),
        (lambda model: setattr(model.opset_import[0], "version", 999), "uses opset 999, the newest of the installed"),
        (lambda model: model.graph.node[0].output.pop(), "Relu '' writes nothing"),
    ):
        model = model_of("y = Relu (x)")
        change(model)
        file = tmp_path / "network.onnx"
        file.write_bytes(model.SerializeToString())
        with pytest.raises(ConfigError, match=message):
            read_onnx(file)
