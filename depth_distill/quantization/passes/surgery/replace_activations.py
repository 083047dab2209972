"""Replace smooth activations by ReLU or leaky ReLU, which every NPU fuses and whose channels can be rescaled."""

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.quantization.graph.node_kinds import classify, operation_name
from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.passes.base import Context, PassResult
from depth_distill.quantization.passes.surgery.edits import erase, finish, free_name, place_of
from depth_distill.quantization.passes.surgery.surgery import Changes, Surgery

Replacement = Literal["relu", "leaky_relu"]
Replaced = Literal["elu", "selu", "celu", "silu", "gelu", "hardswish", "mish", "softplus"]

_MODULES: dict[Replacement, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}
_FUNCTIONS = {"relu": F.relu, "leaky_relu": F.leaky_relu}
_TITLES = {"relu": "ReLU", "leaky_relu": "leaky ReLU"}
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}


@dataclass(frozen=True)
class ReplaceActivations(Surgery):
    """Replace activations by ReLU or leaky ReLU, see :func:`replace_activations`.

    Args:
        by: activation to put in.
        kinds: activations to take out. ``softplus`` is none of them unless named.
    """

    name: ClassVar[str] = "replace_activations"

    by: Replacement = "relu"
    kinds: tuple[Replaced, ...] = ("elu", "selu", "celu", "silu", "gelu", "hardswish", "mish")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`replace_activations`."""
        changed, changes = replace_activations(graph, self.by, self.kinds)
        return PassResult(changed, changes.report(f"activations became {_TITLES[self.by]}"))


def replace_activations(
    graph_module: fx.GraphModule, by: Replacement, kinds: Sequence[Replaced]
) -> tuple[fx.GraphModule, Changes]:
    """A copy with other activations, and what became of each.

    Modules keep their names, so that hooks by name still work. ``x * sigmoid(x)``, ``x * hardsigmoid(x)`` and
    ``x * tanh(softplus(x))`` are SiLU, HardSwish and Mish, however they are written. An activation that ends the
    network, with no layer between it and an output, is left: it determines the range of the output.
    """
    changed = copy.deepcopy(graph_module)
    ending = _ending(changed)
    done: dict[str, str] = {}
    left: dict[str, str] = {}
    calls = calls_by_module(changed)
    for node in list(changed.graph.nodes):
        kind = _product_kind(changed, node) or operation_name(changed, node)
        if kind not in kinds or not node.op.startswith("call"):
            continue
        if kind == "softplus" and any(
            _product_kind(changed, each) == "mish" for user in node.users for each in user.users
        ):
            continue  # a part of a Mish
        place = place_of(node)
        if node in ending:
            left[place] = f"a {kind} that ends the network"
            continue
        source = node.all_input_nodes[0] if _product_kind(changed, node) is None else _product_source(node)
        if node.op == "call_module":
            name = str(node.target)
            if any(call in ending for call in calls[name]):  # the same module ends the network elsewhere
                name = free_name(changed, f"{name}_{by}")
            changed.add_submodule(name, _MODULES[by]())
            node.target = name
        else:
            before = node.all_input_nodes
            node.op, node.target, node.args, node.kwargs = "call_function", _FUNCTIONS[by], (source,), {}
            for each in before:
                erase(each)
        done[place] = f"{kind} became {by}"
    return finish(changed), Changes(done, left)


def _ending(graph_module: fx.GraphModule) -> set[fx.Node]:
    """The nodes from which a path without layers leads to an output."""
    operations = classify(graph_module)
    found: set[fx.Node] = set()
    waiting = [source for node in operations if node.op == "output" for source in node.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node not in found and operations[node].kind != "layer":
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _product_kind(graph_module: fx.GraphModule, node: fx.Node) -> str | None:
    """Which activation the product of a tensor with a function of itself is; None of other nodes."""
    operands = _product(node)
    if operands is None:
        return None
    tensor, gate = operands
    name = operation_name(graph_module, gate)
    if name in ("sigmoid", "hardsigmoid") and gate.all_input_nodes == [tensor]:
        return "silu" if name == "sigmoid" else "hardswish"
    inner = gate.all_input_nodes[0] if len(gate.all_input_nodes) == 1 else None
    if name == "tanh" and inner is not None and inner.all_input_nodes == [tensor]:
        return "mish" if operation_name(graph_module, inner) == "softplus" else None
    return None


def _product_source(node: fx.Node) -> fx.Node:
    operands = _product(node)
    assert operands is not None
    return operands[0]


def _product(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """(tensor, function of it) of the product of two nodes, the earlier one first."""
    if node.op not in ("call_function", "call_method") or node.target not in _PRODUCTS or len(node.args) != 2:
        return None
    first, second = node.args
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node) or first is second:
        return None
    return (second, first) if second in _ancestors(first) else (first, second)


def _ancestors(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node, and their inputs."""
    return [*node.all_input_nodes, *(each for source in node.all_input_nodes for each in source.all_input_nodes)]
