"""What a rewrite of one node may look at and add."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.onnx_graph import OnnxGraph, attributes, label
from depth_distill.loading.onnx_importer.files import free_name


class OpsetError(ConfigError):
    """A node cannot be written with a version of the operator set.

    Attributes:
        needed: oldest version that can express the node.
    """

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class InexpressibleError(Exception):
    """Raised by a rewrite: the older operator cannot compute this node.

    Attributes:
        reason: what the node has that the older version lacks.
        remedy: what to do instead.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class Rewriting:
    """Shapes, types and constants of a model, and the constants that rewrites of its nodes add.

    Args:
        model: the model before the rewrites, with the names of all its tensors.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._seen = OnnxGraph(model)
        self._taken = {name for node in model.graph.node for name in node.output}
        self._taken |= {each.name for each in (*model.graph.initializer, *model.graph.input)}
        self.added: dict[str, np.ndarray] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Static shape of a tensor.

        Raises:
            InexpressibleError: its shape is unknown or not static.
        """
        shape = self._seen.static_shape(name)
        if shape is None:
            raise InexpressibleError(f"the shape of {name} is not static", "export it with a fixed image size")
        return shape

    def constant(self, name: str) -> np.ndarray:
        """Value of a constant tensor.

        Raises:
            InexpressibleError: the tensor depends on the input.
        """
        if name not in self._seen.constants:
            raise InexpressibleError(f"{name} is computed at run time", "make it a constant of the network")
        return self._seen.constants[name]

    def is_constant(self, name: str) -> bool:
        """Whether a tensor does not depend on the input."""
        return name in self._seen.constants

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of a tensor; float32 if it is unknown."""
        return np.dtype(self._seen.dtype(name) or "float32")

    def is_read(self, name: str) -> bool:
        """Whether a tensor is read by a node or is an output of the graph."""
        return bool(name) and bool(self._seen.readers(name) or self._seen.is_output(name))

    def store(self, node: onnx.NodeProto, role: str, values: Any) -> str:
        """Name of a new constant of a node."""
        name = self.free(f"{node.name or node.output[0]}.{role}")
        self.added[name] = np.asarray(values)
        return name

    def free(self, wanted: str) -> str:
        """A name that no tensor has; it is taken from now on."""
        name = free_name(wanted, self._taken)
        self._taken.add(name)
        return name


class Parts:
    """Several nodes in place of one: the last one has its name and writes its output.

    Args:
        node: the node to replace.
        at: its model.
    """

    def __init__(self, node: onnx.NodeProto, at: Rewriting) -> None:
        self._node = node
        self._at = at
        self.nodes: list[onnx.NodeProto] = []

    def apply(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Output of a new node."""
        name = self._at.free(f"{self._node.name or self._node.output[0]}.{op.lower()}")
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def result(self, op: str, *inputs: str, **attributes: Any) -> list[onnx.NodeProto]:
        """All nodes, of which this is the last."""
        last = helper.make_node(op, list(inputs), [self._node.output[0]], self._node.name, **attributes)
        return [*self.nodes, last]

    def number(self, role: str, value: float) -> str:
        """One value of the type and rank of the node's input: some tool chains refuse constants of another rank."""
        x = self._node.input[0]
        shape = (1,) * len(self._at.shape(x))
        return self._at.store(self._node, role, np.full(shape, value, self._at.dtype(x)))


def changed(
    node: onnx.NodeProto, *, drop: Sequence[str] = (), inputs: Sequence[str] | None = None, op: str = "", **values: Any
) -> list[onnx.NodeProto]:
    """The node with attributes dropped or set, and other inputs or another operator.

    Args:
        node: the node, which is not changed.
        drop: attributes to leave out.
        inputs: all inputs; those of the node unless given. Empty ones at the end are left out.
        op: operator type; that of the node unless given.
        values: attributes to set; None leaves one out.
    """
    kept: Mapping[str, Any] = {key: value for key, value in attributes(node).items() if key not in drop}
    names = list(node.input if inputs is None else inputs)
    while names and not names[-1]:
        names.pop()
    merged = {key: value for key, value in {**kept, **values}.items() if value is not None}
    new = helper.make_node(op or node.op_type, names, list(node.output), node.name)
    types = {each.name: each.type for each in node.attribute}
    for key, value in merged.items():
        # An empty list has no type of its own.
        new.attribute.append(helper.make_attribute(key, value, attr_type=None if value != [] else types.get(key)))
    new.metadata_props.extend(node.metadata_props)
    return [new]


def only(node: onnx.NodeProto, name: str, allowed: Any, remedy: str) -> None:
    """Require an attribute to be missing or to have the one value that the older version computes.

    Raises:
        InexpressibleError: it has another value.
    """
    value = attributes(node).get(name, allowed)
    value = value.decode() if isinstance(value, bytes) else value
    if value != allowed:
        raise InexpressibleError(f"{name} is {value}", remedy)


def input_or_none(node: onnx.NodeProto, position: int) -> str | None:
    """Name of an optional input, or None if it is not given."""
    return node.input[position] if len(node.input) > position and node.input[position] else None


def named(node: onnx.NodeProto) -> str:
    """Node and operator, for messages."""
    return f"{label(node)} ({node.op_type})" if node.name else label(node)
