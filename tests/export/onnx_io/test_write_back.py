import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.write_back import write_back
from depth_distill.loading.onnx_importer import import_onnx
from depth_distill.quantization.passes.equalize import equalize
from depth_distill.quantization.passes.fold import fold
from tests.loading.onnx_importer.onnx_text import imported, model_of, saved

BN = {"s": (4,), "b": (4,), "m": (4,), "v": np.array([0.5, 1, 2, 3], np.float32)}


def run(model):
    onnx.checker.check_model(model, full_check=True)
    (declared,) = model.graph.input[:1]
    shape = [dim.dim_value for dim in declared.type.tensor_type.shape.dim]
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {declared.name: image})[0]


def assert_same(before, after):
    np.testing.assert_allclose(run(after), run(before), rtol=1e-4, atol=1e-5)
    assert list(after.opset_import) == list(before.opset_import)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_an_unchanged_graph_gives_the_file(tmp_path):
    found = imported(tmp_path, "[c] y = Conv (x, w)", w=(4, 4, 3, 3))
    assert write_back(found, found.graph) == found.model


def test_merged_batch_norms_disappear_and_a_lone_one_becomes_a_convolution(tmp_path):
    body = """
        [c] a = Conv (x, w) [bn] n = BatchNormalization (a, s, b, m, v) r = Relu (n)
        [lone] y = BatchNormalization (r, s, b, m, v)
    """
    found = imported(tmp_path, body, w=(4, 4, 3, 3), **BN)
    found.model.metadata_props.add(key="author", value="me")
    after = write_back(found, fold(found.graph))
    assert [(node.op_type, node.name) for node in after.graph.node] == [
        ("Conv", "c"), ("Relu", ""), ("Conv", "lone_affine")
    ]  # fmt: skip
    assert {each.name for each in after.graph.initializer} == {"w", "c.bias", "lone_affine.weight", "lone_affine.bias"}
    assert [each.value for each in after.metadata_props] == ["me"]
    assert_same(found.model, after)


def test_batch_norms_of_caffe_disappear_with_their_scale(tmp_path):
    body = """
        a = Conv (x, w) n = BatchNormalization (a, s, b, m, v) f = Mul (n, c) g = Add (f, d) r = Relu (g)
        [lone] k = BatchNormalization (r, s, b, m, v) l = Mul (k, c) y = Add (l, d)
    """
    found = imported(tmp_path, body, w=(4, 4, 3, 3), c=(4, 1, 1), d=(1, 4, 1, 1), **BN)
    after = write_back(found, equalize(fold(found.graph)).graph_module)
    assert operators(after) == ["Conv", "Relu", "Conv"]
    assert after.graph.node[2].name == "lone_affine"
    assert_same(found.model, after)


def test_fold_and_equalize_of_every_kind_of_layer(tmp_path):
    body = """
        a = Conv (x, w) b1 = Add (a, c) r = Relu (b1) t = ConvTranspose (r, wt) n = BatchNormalization (t, s, b, m, v)
        p = Relu (n) k = Conv <group=2> (p, wg) g = GlobalAveragePool (k) f = Flatten (g) y = Gemm <alpha=0.5> (f, wl)
    """
    shapes = {"w": (6, 4, 3, 3), "c": (6, 1, 1), "wt": (6, 4, 2, 2), "wg": (4, 2, 3, 3), "wl": (4, 3)}
    found = imported(tmp_path, body, **shapes, **BN)
    after = write_back(found, equalize(fold(found.graph)).graph_module)
    assert operators(after) == [each for each in operators(found.model) if each != "BatchNormalization"]
    assert not np.array_equal(onnx.numpy_helper.to_array(after.graph.initializer[0]), found.graph.conv.weight.detach())
    assert_same(found.model, after)


@pytest.mark.parametrize("attributes", ["", "<transB=1>", "<alpha=0.5, beta=2.0>"])
def test_linear_layers_get_new_values(tmp_path, attributes):
    shape = (3, 8) if "transB" in attributes else (8, 3)
    found = imported(tmp_path, f"y = Gemm {attributes} (x, w, b)", inputs="float[1,8] x", w=shape, b=(1, 3))
    changed = copy.deepcopy(found.graph)
    with torch.no_grad():
        changed.gemm.weight.mul_(2)
        changed.gemm.bias.mul_(2)
    np.testing.assert_allclose(run(write_back(found, changed)), 2 * run(found.model), rtol=1e-5)


def test_a_matmul_gains_an_add(tmp_path):
    found = imported(
        tmp_path, "[m] a = MatMul (x, w) y = BatchNormalization (a, s, b, m, v)", inputs="float[1,8] x", w=(8, 4), **BN
    )
    after = write_back(found, fold(found.graph))
    assert [(node.op_type, node.name) for node in after.graph.node] == [("MatMul", "m"), ("Add", "m_bias")]
    assert_same(found.model, after)


def test_a_shared_weight_is_split_where_it_differs(tmp_path):
    found = imported(tmp_path, "[one] a = Conv (x, w) r = Relu (a) [two] y = Conv (r, w)", w=(4, 4, 1, 1))
    after = write_back(found, equalize(found.graph).graph_module)
    assert [node.input[1] for node in after.graph.node if node.op_type == "Conv"] == ["one.weight", "w"]
    assert_same(found.model, after)


def test_a_weight_that_nodes_compute_becomes_an_initializer(tmp_path):
    body = "k = Identity (w) [one] a = Conv (x, k) r = Relu (a) [two] y = Conv (r, k)"
    found = imported(tmp_path, body, w=(4, 4, 1, 1))
    after = write_back(found, equalize(found.graph).graph_module)
    assert operators(after) == ["Conv", "Relu", "Conv"]
    assert {each.name for each in after.graph.initializer} == {"one.weight", "two.weight"}
    assert_same(found.model, after)


def test_a_bias_that_nodes_compute_becomes_an_initializer_of_the_add(tmp_path):
    body = "u = Unsqueeze (c, i) [one] a = Conv (x, w) [add] b1 = Add (a, u) r = Relu (b1) [two] y = Conv (r, w2)"
    shapes = {"w": (6, 4, 1, 1), "c": (6,), "w2": (2, 6, 1, 1)}
    found = imported(tmp_path, body, i=np.array([1, 2]), **shapes)
    after = write_back(found, equalize(found.graph).graph_module)
    assert operators(after) == ["Conv", "Add", "Relu", "Conv"]
    assert {each.name for each in after.graph.initializer} == {"w", "add.bias", "w2"}
    assert_same(found.model, after)


def test_another_structure_is_refused_by_name(tmp_path):
    found = imported(tmp_path, "a = Conv (x, w) r = Clip (a, l, h) y = Mul (r, f)", w=(4, 4, 3, 3), f=(4, 1, 1),
                     l=np.float32(0), h=np.float32(6))  # fmt: skip
    replaced = copy.deepcopy(found.graph)
    replaced.clip = nn.ReLU()
    with pytest.raises(ConfigError, match="clip: expected a ReLU6 as in the file, received a ReLU"):
        write_back(found, replaced)
    widened = copy.deepcopy(found.graph)
    widened.conv = nn.Conv2d(4, 4, 5)
    with pytest.raises(ConfigError, match=r"conv: expected torch.Size\(\[4, 4, 3, 3\]\)"):
        write_back(found, widened)
    changed = copy.deepcopy(found.graph)
    changed.constants.f.mul_(2)
    with pytest.raises(ConfigError, match=r"constants\.f changed"):
        write_back(found, changed)
    other = imported(tmp_path, "a = Conv (x, w) y = Relu (a)", w=(4, 4, 3, 3))
    with pytest.raises(ConfigError, match="clip: expected values to change only, but the graph has relu there"):
        write_back(found, other.graph)


def test_quantized_files_come_back_as_float(tmp_path):
    body = """
        q = QuantizeLinear (x, t, z) d = DequantizeLinear (q, t, z) k = DequantizeLinear (w, t)
        a = Conv (d, k) r = Relu (a) y = Conv (r, w2)
    """
    found = import_onnx(saved(tmp_path / "network.onnx", model_of(
        body, t=np.float32(0.1), z=np.uint8(0), w=np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1, 1), w2=(2, 4, 1, 1)
    )))  # fmt: skip
    after = write_back(found, equalize(found.graph).graph_module)
    assert operators(after) == ["Conv", "Relu", "Conv"]
    image = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(after), found.graph(torch.from_numpy(image)).detach(), rtol=1e-4, atol=1e-5)
