"""ONNX nodes as plain Python values."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import helper


@dataclass(frozen=True)
class Node:
    """One operator of a file.

    Attributes:
        operator: type of the operator; prefixed with its domain unless it is one of ONNX's own.
        name: name of the node; it may be empty.
        inputs: names of the tensors that it reads; an empty name is an input that is left out.
        outputs: names of the tensors that it writes.
        attributes: values by name; strings are decoded.
        scopes: paths of the modules around it, outermost first, and its own name, where torch's exporter wrote them.
        proto: the node as it stands in the file; None for one that stands for several.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()
    proto: onnx.NodeProto | None = None

    @property
    def label(self) -> str:
        """The name, or the first tensor that a nameless node writes."""
        return self.name or next((name for name in self.outputs if name), "without a name")

    def __str__(self) -> str:
        return f"{self.operator} {self.label!r}"


_SCOPES = "pkg.torch.onnx.name_scopes"


def nodes_of(protos: Iterable[onnx.NodeProto]) -> list[Node]:
    """Nodes in the order of the file."""
    return [_node(proto) for proto in protos]


def _node(proto: onnx.NodeProto) -> Node:
    attributes = {each.name: _decoded(helper.get_attribute_value(each)) for each in proto.attribute}
    operator = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
    return Node(operator, proto.name, tuple(proto.input), tuple(proto.output), attributes, _scopes(proto), proto)


def _scopes(proto: onnx.NodeProto) -> tuple[str, ...]:
    written = [each.value for each in proto.metadata_props if each.key == _SCOPES]
    # The exporter writes the repr of a list of strings.
    return tuple(part.strip("'\" ") for part in written[0].strip("[]").split(",")) if written else ()


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [each.decode(errors="replace") for each in value]
    return value
