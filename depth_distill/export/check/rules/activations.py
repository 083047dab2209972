"""Activation functions, recognized by their values, because exporters write SiLU or GELU as several operators."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from depth_distill.export.check.rules.finding import Finding, Findings, listed
from depth_distill.export.onnx_io.onnx_graph import OnnxGraph

ACTIVATION_OPERATORS = {
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
    "Erf": "erf",
    "Mish": "mish",
    "Softplus": "softplus",
}
_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * np.array([0.5 + 0.5 * math.erf(each / math.sqrt(2)) for each in x]),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
}
_ELEMENTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Neg", "Relu", "Clip", "Exp", "Log", "Sqrt"}
    | {"Reciprocal", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Softplus", "Mish"}
)
_GRID = np.linspace(-8, 8, 129, dtype=np.float32)  # beyond it, each function is practically 0 or x
_LONGEST = 12  # nodes; GELU with its tanh takes 8


@dataclass(frozen=True)
class Activation:
    """An activation function and the nodes that compute it, the last of which writes its output.

    Attributes:
        name: name as in ``fused_activations``, or else the usual name.
        nodes: nodes in graph order.
    """

    name: str
    nodes: tuple[onnx.NodeProto, ...]


def activations(graph: OnnxGraph) -> list[Activation]:
    """The activations of a graph, each once, regardless of its number of nodes and Q/DQ pairs."""
    found = list(_candidates(graph))

    def is_part_of(part: Activation, whole: Activation) -> bool:
        inner = part.nodes[-1].output[0]
        inside = [node.output[0] for node in whole.nodes]
        return (
            inner in inside[:-1]
            and not graph.is_output(inner)
            and all(node.output[0] in inside for node in graph.readers(inner))
        )

    return [each for each in found if not any(is_part_of(each, other) for other in found)]


def check_activations(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    """One warning per function that the target does not fuse, and one for a sigmoid at the end."""
    fused = findings.target.fused_activations
    left: dict[tuple[str, bool], list[onnx.NodeProto]] = {}
    for each in activations(graph):
        # ONNX has no ReLU6: a tool chain that fuses Clip also fuses it.
        if each.name not in fused and not all(ACTIVATION_OPERATORS.get(node.op_type) in fused for node in each.nodes):
            is_head = each.name == "sigmoid" and not graph.readers(each.nodes[-1].output[0])
            left.setdefault((each.name, is_head), []).append(each.nodes[-1])
    for (name, is_head), nodes in left.items():
        yield findings.warning(
            nodes, "fused_activations", f"{name} is not fused: its input is quantized as well",
            "leave it to the host (--logits)" if is_head
            else f"use one that the target fuses ({listed(fused) or 'there is none'}), or accept the extra rounding",
        )  # fmt: skip


@dataclass(frozen=True)
class _Function:
    """A function of one tensor: its values if that tensor is ``_GRID``, and the nodes that compute it."""

    values: np.ndarray
    nodes: tuple[onnx.NodeProto, ...] = ()


def _candidates(graph: OnnxGraph) -> Iterator[Activation]:
    functions: dict[str, dict[str, _Function]] = {}  # by output tensor, then by input tensor of the function
    for node in graph.nodes:
        of_operands = {
            name: functions.get(name, {name: _Function(_GRID)})
            for name in node.input
            if name and name not in graph.constants
        }
        output = node.output[0]
        if graph.only_changes_form(node) and node.input[0] in of_operands:
            functions[output] = of_operands[node.input[0]]
            continue
        found = _functions(graph, node, of_operands)
        functions[output] = {output: _Function(_GRID)} | found
        names = {name: each for each in found.values() for name in [_name(each.values)] if name is not None}
        if names:
            name, longest = max(names.items(), key=lambda pair: len(pair[1].nodes))
            yield Activation(name, longest.nodes)
        elif node.op_type in ACTIVATION_OPERATORS and output not in graph.constants:
            yield Activation(ACTIVATION_OPERATORS[node.op_type], (node,))


def _functions(
    graph: OnnxGraph, node: onnx.NodeProto, of_operands: dict[str, dict[str, _Function]]
) -> dict[str, _Function]:
    """The output of a node as functions of those tensors that all of its operands are functions of."""
    constants = {name: graph.constants[name] for name in node.input if name in graph.constants}
    if node.op_type not in _ELEMENTWISE or not of_operands or any(value.size != 1 for value in constants.values()):
        return {}
    scalars = {name: value.astype(np.float32).reshape(()) for name, value in constants.items()}
    found = {}
    for root in next(iter(of_operands.values())):
        parts = [of_operand[root] for of_operand in of_operands.values() if root in of_operand]
        before = {each.output[0]: each for part in parts for each in part.nodes}
        nodes = (*before.values(), node)
        if len(parts) == len(of_operands) and len(nodes) <= _LONGEST:
            grids = {name: of_operand[root].values for name, of_operand in of_operands.items()}
            with np.errstate(all="ignore"):
                results = graph.evaluate(node, grids | scalars)
            if node.output[0] in results:
                found[root] = _Function(results[node.output[0]], nodes)
    return found


def _name(values: np.ndarray) -> str | None:
    # SiLU and GELU differ by 0.2, GELU and its tanh form by 0.0005, FP16 constants by a relative error of 0.0005.
    return next((name for name, f in _FUNCTIONS.items() if np.allclose(values, f(_GRID), 2e-3, 5e-3)), None)
