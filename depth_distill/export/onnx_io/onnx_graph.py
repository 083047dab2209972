"""An ONNX graph seen without its Q/DQ pairs: operators, shapes, types and constants."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from depth_distill.loading.onnx_importer.constants import require_bounded
from depth_distill.loading.onnx_importer.files import opset_of

QDQ_OPERATORS = ("QuantizeLinear", "DequantizeLinear")
_NOT_COMPUTED = (*QDQ_OPERATORS, "Constant", "Identity")


class OnnxGraph:
    """The nodes of a model, with the shapes, types and constants known before compilation.

    Args:
        model: valid model, as checked by ``onnx.checker``; its functions are inlined in a copy.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        if model.functions:
            model = inliner.inline_local_functions(model)
        self.nodes: Sequence[onnx.NodeProto] = model.graph.node
        self.model = shape_inference.infer_shapes(_with_onnx_qdq(model), data_prop=True)
        self._stored = {each.name: each for each in self.model.graph.initializer}
        graph = self.model.graph
        self._types = {each.name: each.type.tensor_type for each in (*graph.value_info, *graph.input, *graph.output)}
        self.inputs = [each.name for each in graph.input if each.name not in self._stored]
        self.outputs = [each.name for each in graph.output]

    @property
    def opset(self) -> int:
        """Version of ONNX's own operator set."""
        return opset_of(self.model)

    def operators(self) -> Iterator[onnx.NodeProto]:
        """Nodes that an NPU computes: without Q/DQ, Identity, and nodes that only depend on constants."""
        for node in self.nodes:
            if node.op_type not in _NOT_COMPUTED and not all(name in self.constants for name in node.output):
                yield node

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Tensors that do not depend on the input, dequantized: initializers, and tensors computed from them."""
        found = {name: numpy_helper.to_array(tensor) for name, tensor in self._stored.items()}
        for node in self.nodes:
            shape = self.static_shape(node.input[0]) if node.op_type == "Shape" else None
            if shape is not None:
                # Only the shape matters; the broadcast array takes no memory.
                found |= self.evaluate(node, {node.input[0]: np.broadcast_to(np.bool_(False), shape)})
            elif all(not name or name in found for name in node.input):
                found |= self.evaluate(node, found)
        return found

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Operators that read a tensor, directly or through Q/DQ pairs."""
        every = [node for form in self._forms(name) for node in self._readers.get(form, [])]
        return [node for node in every if not self.only_changes_form(node)]

    def is_output(self, name: str) -> bool:
        """Whether a tensor is an output of the graph, directly or through a Q/DQ pair."""
        return any(form in self.outputs for form in self._forms(name))

    def only_changes_form(self, node: onnx.NodeProto) -> bool:
        """Whether a node only changes the form of the values that it reads."""
        is_cast = node.op_type == "Cast" and (self.dtype(node.output[0]) or "").startswith("float")
        return is_cast or node.op_type in (*QDQ_OPERATORS, "Identity")

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """Shape of a tensor, with the symbol or None for dynamic dimensions; None if the shape is unknown."""
        if name in self._stored:
            return tuple(self._stored[name].dims)
        if name not in self._types or not self._types[name].HasField("shape"):
            return None
        return tuple(
            dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
            for dim in self._types[name].shape.dim
        )

    def static_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, or None unless every dimension is fixed."""
        shape = self.shape(name)
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return None
        return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]

    def dtype(self, name: str) -> str | None:
        """NumPy name of a tensor's type, or None if it is unknown."""
        if name in self._stored:
            return _dtype_name(self._stored[name].data_type)
        return _dtype_name(self._types[name].elem_type) if name in self._types else None

    def evaluate(self, node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of a node for given inputs; empty if the reference evaluator does not support the node."""
        node = _as_onnx_qdq(node)
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
            require_bounded(model, used)
            results = ReferenceEvaluator(model).run(None, used)
        except Exception:  # of another domain, unknown, or huge: its output is not treated as constant
            return {}
        return dict(zip((name for name in node.output if name), map(np.asarray, results), strict=True))

    def _forms(self, name: str) -> Iterator[str]:
        yield name
        for node in self._readers.get(name, []):
            if self.only_changes_form(node):
                yield from self._forms(node.output[0])

    @cached_property
    def _readers(self) -> dict[str, list[onnx.NodeProto]]:
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        return readers


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values, by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def label(node: onnx.NodeProto) -> str:
    """Name of a node in messages: its own, or the operator and the output that it writes."""
    return node.name or f"{node.op_type} that writes {node.output[0]}"


def operator_of(node: onnx.NodeProto) -> str:
    """Operator type of a node, prefixed with its domain unless it is one of ONNX's own."""
    return node.op_type if is_of_onnx(node) else f"{node.domain}.{node.op_type}"


def is_of_onnx(node: onnx.NodeProto) -> bool:
    """Whether a node is one of ONNX's own operators."""
    return node.domain in ("", "ai.onnx")


def _with_onnx_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with ONNX Runtime's Q/DQ nodes (16 bits before opset 21) as ONNX's own, for shape inference."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for node in copied.graph.node:
        node.CopyFrom(_as_onnx_qdq(node))
    return copied


def _as_onnx_qdq(node: onnx.NodeProto) -> onnx.NodeProto:
    if node.op_type not in QDQ_OPERATORS or is_of_onnx(node):
        return node
    own = onnx.NodeProto()
    own.CopyFrom(node)
    own.domain = ""
    return own


def _dtype_name(elem_type: int) -> str | None:
    return str(helper.tensor_dtype_to_np_dtype(elem_type)) if elem_type != onnx.TensorProto.UNDEFINED else None
