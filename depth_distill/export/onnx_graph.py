"""An ONNX graph as it reads without its Q/DQ pairs: operators, shapes, types, and what is constant."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

ACTIVATION_OPS = {
    "Relu": "relu",
    "Clip": "clip",
    "LeakyRelu": "leaky_relu",
    "PRelu": "prelu",
    "Elu": "elu",
    "HardSwish": "hardswish",
    "HardSigmoid": "hardsigmoid",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Gelu": "gelu",
    "Erf": "gelu",  # what the exporter writes it as below opset 20
}
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")
_NO_OPERATORS = (*_ROUNDING, "Constant", "Identity")


class OnnxGraph:
    """The nodes of a model, with what a tool chain knows about them before it compiles.

    Args:
        model: checked by ``onnx.checker``; functions in it are inlined. It is not changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        if model.functions:
            model = inliner.inline_local_functions(model)
        self.model = shape_inference.infer_shapes(model, data_prop=True)
        self.nodes: Sequence[onnx.NodeProto] = self.model.graph.node
        self._stored = {each.name: each for each in self.model.graph.initializer}
        graph = self.model.graph
        self._types = {each.name: each.type.tensor_type for each in (*graph.value_info, *graph.input, *graph.output)}
        self.inputs = [each.name for each in graph.input if each.name not in self._stored]
        self.outputs = [each.name for each in graph.output]

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return next((each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx")), 1)

    def operators(self) -> Iterator[onnx.NodeProto]:
        """What an NPU computes: no Q/DQ, no identity, nothing that depends on constants alone."""
        for node in self.nodes:
            if node.op_type not in _NO_OPERATORS and not all(name in self.constants for name in node.output):
                yield node

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Tensors that do not depend on the input, dequantized: initializers, and what is computed from them."""
        found = {name: numpy_helper.to_array(tensor) for name, tensor in self._stored.items()}
        for node in self.nodes:
            shape = self.static_shape(node.input[0]) if node.op_type == "Shape" else None
            if shape is not None:
                # Its content does not matter, and takes no memory.
                found |= self._evaluate(node, {node.input[0]: np.broadcast_to(np.bool_(False), shape)})
            elif all(not name or name in found for name in node.input):
                found |= self._evaluate(node, found)
        return found

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """Of a tensor; a dimension that is not fixed is its symbol or None, and so is a shape that is not known."""
        if name in self._stored:
            return tuple(self._stored[name].dims)
        if name not in self._types or not self._types[name].HasField("shape"):
            return None
        return tuple(
            dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
            for dim in self._types[name].shape.dim
        )

    def static_shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor, if every dimension is fixed."""
        shape = self.shape(name)
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return None
        return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]

    def dtype(self, name: str) -> str | None:
        """NumPy name of the type of a tensor."""
        if name in self._stored:
            return _dtype_name(self._stored[name].data_type)
        return _dtype_name(self._types[name].elem_type) if name in self._types else None

    def _evaluate(self, node: onnx.NodeProto, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        used = {name: values[name] for name in node.input if name}
        types = [helper.np_dtype_to_tensor_dtype(value.dtype) for value in used.values()]
        inputs = [
            helper.make_tensor_value_info(name, kind, value.shape)
            for (name, value), kind in zip(used.items(), types, strict=True)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "constant", inputs, outputs)
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        try:
            results = ReferenceEvaluator(model).run(None, used)
        except Exception:  # an operator of another domain, or one that it does not know: not a constant, then
            return {}
        return dict(zip((name for name in node.output if name), map(np.asarray, results), strict=True))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Of a node, as Python values."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def label(node: onnx.NodeProto) -> str:
    """What messages call a node: its name, or the output it writes."""
    return node.name or f"{node.op_type} that writes {node.output[0]}"


def _dtype_name(elem_type: int) -> str | None:
    return str(helper.tensor_dtype_to_np_dtype(elem_type)) if elem_type != onnx.TensorProto.UNDEFINED else None
