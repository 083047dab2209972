"""Nodes whose inputs are all known are computed while a file is read."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from depth_distill.errors import ConfigError, first_line
from depth_distill.loading.onnx_importer.files import MOST_VALUES
from depth_distill.loading.onnx_importer.nodes import Node
from depth_distill.loading.onnx_importer.session import open_session, run_session

_IR_VERSION = 8  # read by every ONNX Runtime that this package takes
_SMALL = 1024  # values of a shape, or of settings


def evaluate(
    node: Node, values: Mapping[str, np.ndarray], opsets: Sequence[onnx.OperatorSetIdProto]
) -> dict[str, np.ndarray]:
    """The outputs of a node whose inputs are constants.

    Args:
        node: a node of the file.
        values: the constants that it reads, by name.
        opsets: versions of the operator sets of the file.

    Raises:
        ValueError: neither ONNX's reference implementation nor ONNX Runtime computes the node, or it would make a
            tensor of more values than :data:`~depth_distill.loading.onnx_importer.files.MOST_VALUES`.
    """
    assert node.proto is not None
    if node.operator == "Constant":
        return {node.outputs[0]: _constant(node)}
    if node.operator == "Identity":
        return {node.outputs[0]: values[node.inputs[0]]}
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    if proto.op_type in ("QuantizeLinear", "DequantizeLinear"):
        proto.domain = ""  # ONNX Runtime has its own for 16 bits
    used = {name: values[name] for name in node.inputs if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in used.items()
    ]
    names = [name for name in node.outputs if name]
    graph = helper.make_graph([proto], "constant", inputs, [onnx.ValueInfoProto(name=name) for name in names])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    require_bounded(model, used)
    try:
        results = ReferenceEvaluator(model).run(None, used)
    except Exception as error:  # the evaluator raises whatever NumPy does, or its own types
        results = _by_onnxruntime(model, used, error)
    return dict(zip(names, map(np.asarray, results), strict=True))


def require_bounded(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> None:
    """Require the outputs of a model of one node to be of a size that can be computed: a file may claim any.

    Raises:
        ValueError: one has more values than :data:`~depth_distill.loading.onnx_importer.files.MOST_VALUES`.
    """
    told = onnx.ModelProto()
    told.CopyFrom(model)
    # The shape of an output may be the value of a small input.
    small = [numpy_helper.from_array(each, name) for name, each in values.items() if each.size <= _SMALL]
    told.graph.initializer.extend(small)
    try:
        outputs = shape_inference.infer_shapes(told, data_prop=True).graph.output
    except Exception:  # the inference fails where the node does, which has its own error
        return
    for each in outputs:
        sizes = [dim.dim_value for dim in each.type.tensor_type.shape.dim]
        if math.prod(sizes) > MOST_VALUES:
            raise ValueError(f"{each.name} would have the shape {sizes}, more than {MOST_VALUES} values")


def _constant(node: Node) -> np.ndarray:
    (key, value), *others = node.attributes.items()
    if others or not key.startswith("value"):
        raise ValueError(f"attributes {', '.join(node.attributes)}, expected one value")
    if key == "value":
        return numpy_helper.to_array(value)
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if key not in dtypes:
        raise ValueError(f"{key} holds no tensor")
    return np.asarray(value, dtypes[key])


def _by_onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray], error: Exception) -> list[np.ndarray]:
    try:
        return run_session(open_session(model.SerializeToString(), "constant"), feeds, "constant")
    except ConfigError:
        raise ValueError(first_line(error)) from error
