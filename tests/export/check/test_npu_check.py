"""The operator check: each rule on a graph that breaks it, and on one that does not."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from depth_distill.errors import ConfigError
from depth_distill.export.check.npu_check import check_onnx
from depth_distill.quantization.target.target import load_target

APACHE = load_target("aiware-apache6")


def model(op, inputs, shape_in, shape_out, constants=(), **attributes):
    """One node between an image and an output."""
    given = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants]
    node = helper.make_node(op, inputs, ["y"], "the node", **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)],
        given,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])


def conv(window=3, stride=1, dilation=1):
    weight = np.zeros((8, 8, window, window), np.float32)
    pad = dilation * (window // 2)
    size = (32 + 2 * pad - dilation * (window - 1) - 1) // stride + 1
    return model(
        "Conv", ["x", "w"], [1, 8, 32, 32], [1, 8, size, size], [("w", weight)],
        strides=[stride] * 2, dilations=[dilation] * 2, pads=[pad] * 4,
    )  # fmt: skip


def resize(scale):
    size = int(32 * scale)
    scales = np.array([1, 1, scale, scale], np.float32)
    region = np.empty(0, np.float32)
    return model(
        "Resize", ["x", "r", "s"], [1, 8, 32, 32], [1, 8, size, size], [("r", region), ("s", scales)], mode="nearest"
    )


def cut(end):
    bounds = [("a", np.array([0])), ("b", np.array([end])), ("c", np.array([1]))]
    return model("Slice", ["x", "a", "b", "c"], [1, 16, 32, 32], [1, end, 32, 32], bounds)


def times(shape):
    return model("Mul", ["x", "k"], [1, 8, 32, 32], [1, 8, 32, 32], [("k", np.ones(shape, np.float32))])


def concat(axis):
    shape = [1, 8, 32, 32]
    shape[axis] *= 2
    return model("Concat", ["x", "x"], [1, 8, 32, 32], shape, axis=axis)


@pytest.mark.parametrize(
    ("bad", "rule", "good"),
    [
        (conv(window=19), "operators.supported.Conv.max_window", conv(window=17)),
        (conv(dilation=6), "operators.supported.Conv.max_dilation", conv(dilation=5)),
        (conv(stride=3), "operators.supported.Conv.strides", conv(stride=2)),
        (resize(3), "operators.supported.Resize.factors", resize(4)),
        (cut(1), "operators.supported.Slice.multiple", cut(8)),
        (times((1, 8, 32, 32)), "operators.supported.Mul.operands", times((1, 8, 1, 1))),
        (concat(0), "operators.supported.Concat.axes", concat(1)),
        (
            model("Reshape", ["x", "s"], [1, 8, 32, 32], [1, 8, 1024], [("s", np.array([1, 8, 1024]))]),
            "operators.supported",
            model("Relu", ["x"], [1, 8, 32, 32], [1, 8, 32, 32]),
        ),
    ],
)
def test_each_rule(bad, rule, good):
    found = check_onnx(bad, APACHE)
    assert not found.ok
    (finding,) = (each for each in found.findings if each.severity == "violation")
    assert finding.node == "the node"
    assert finding.rule.startswith(f"{rule}, aiware-apache6.yaml:")
    assert finding.remedy
    assert check_onnx(good, APACHE).ok


def test_warnings_do_not_refuse():
    found = check_onnx(model("Sigmoid", ["x"], [1, 8, 32, 32], [1, 8, 32, 32]), APACHE)
    assert found.ok
    assert [each.rule.split(",")[0] for each in found.findings] == ["fused_activations"]
    odd = check_onnx(conv(stride=8), APACHE)  # 4 x 4
    assert [each.rule.split(",")[0] for each in odd.findings] == ["alignment"]


def test_half_precision_by_capability():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "the node")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 8, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 8, 32, 32])],
    )
    half = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    for support, severities in (("yes", []), ("unconfirmed", ["warning"]), ("no", ["violation"])):
        capabilities = dataclasses.replace(APACHE.capabilities, fp16=support)
        found = check_onnx(half, dataclasses.replace(APACHE, capabilities=capabilities)).findings
        assert [each.severity for each in found] == severities


def test_a_shape_that_is_not_fixed_is_refused():
    found = check_onnx(model("Relu", ["x"], ["batch", 8, 32, 32], ["batch", 8, 32, 32]), APACHE)
    assert [each.rule for each in found.findings if each.severity == "violation"] == ["static shapes"]


def test_a_file_that_is_not_a_model(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        check_onnx(tmp_path / "a.onnx", APACHE)
    (tmp_path / "a.onnx").write_bytes(onnx.ModelProto().SerializeToString() + b"\x08")
    with pytest.raises(ConfigError, match="is no ONNX file"):
        check_onnx(tmp_path / "a.onnx", APACHE)
