"""The operators between the last layer of a network and its output: what a factor and an offset pass through."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.loading.meaning import Affine

# Operators that move values, or average them with weights whose sum is 1: a factor and an offset pass through.
RANK_CHANGES = {torch.unsqueeze, torch.squeeze, "unsqueeze", "squeeze"}
"""Operators that add or remove an axis."""
_INTERPOLATIONS = {F.interpolate, F.upsample}
_LINEAR_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
_ARITHMETIC = {
    operator.mul: "mul", torch.mul: "mul", "mul": "mul", operator.add: "add", torch.add: "add", "add": "add",
    operator.sub: "sub", torch.sub: "sub", "sub": "sub", operator.truediv: "div", torch.div: "div", "div": "div",
}  # fmt: skip


def step_back(
    node: fx.Node, wanted: Affine, averaged: bool, graph_module: fx.GraphModule
) -> tuple[fx.Node, Affine, list[fx.Node]] | None:
    """One step back: the node before, what is then wanted of it, and nodes to drop; None if there is no such step.

    ``averaged`` is whether pixels are averaged between the node and the clip.
    """
    module = module_of(node, graph_module)
    if type(module) in _LINEAR_MODULES or called(node) in RANK_CHANGES | _INTERPOLATIONS | {"contiguous"}:
        return node.all_input_nodes[0], wanted, []
    constant = _constant_operand(node)
    if constant is not None:
        before, scale, offset = constant
        return before, Affine(wanted.scale * scale, wanted.scale * offset + wanted.offset, wanted.clip), [node]
    kind = _activation(node, module)
    if kind in ("sigmoid", "hardsigmoid") and wanted[:2] == (-1.0, 1.0):
        return node.all_input_nodes[0], Affine(-1.0, 0.0, wanted.clip), []
    if kind == "unit_clip" and wanted[:2] == (-1.0, 1.0):
        return node.all_input_nodes[0], Affine(-1.0, 1.0, wanted.clip), []
    # relu(x) < 0 never happens; where the clip maps all of it to one end, the ReLU changes nothing. Before an average
    # it does: the clip comes too late.
    at_end = wanted.offset <= 0 if wanted.scale > 0 else wanted.offset >= 1
    if kind == "relu" and wanted.clip and at_end and not averaged:
        return node.all_input_nodes[0], wanted, [node]
    return None


def averages(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Whether a node interpolates between pixels."""
    module = module_of(node, graph_module)
    mode = getattr(module, "mode", None) if module is not None else node.kwargs.get("mode", "nearest")
    is_interpolation = isinstance(module, nn.Upsample) or called(node) in _INTERPOLATIONS
    return is_interpolation and mode not in ("nearest", "nearest-exact")


def called(node: fx.Node) -> Any:
    """The function, or the name of the method, that a node calls; None of a module, which may have any name."""
    return node.target if node.op in ("call_function", "call_method") else None


def module_of(node: fx.Node, graph_module: fx.GraphModule) -> nn.Module | None:
    """The module that a node calls; None if it calls a function."""
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _constant_operand(node: fx.Node) -> tuple[fx.Node, float, float] | None:
    """``(x, scale, offset)`` of a node that computes ``scale * x + offset`` with numbers."""
    if called(node) in (operator.neg, torch.neg, "neg"):
        return node.all_input_nodes[0], -1.0, 0.0
    kind = _ARITHMETIC.get(called(node))
    if kind is None or len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    if isinstance(first, fx.Node) and isinstance(second, int | float) and (second or kind != "div"):
        scale = {"mul": second, "div": 1 / second if second else 0}.get(kind, 1)
        return first, float(scale), float({"add": second, "sub": -second}.get(kind, 0))
    if isinstance(second, fx.Node) and isinstance(first, int | float) and kind != "div":
        scale = {"mul": first, "sub": -1}.get(kind, 1)
        return second, float(scale), float(0 if kind == "mul" else first)
    return None


def _activation(node: fx.Node, module: nn.Module | None) -> str | None:
    if type(module) is nn.Sigmoid or called(node) in (torch.sigmoid, F.sigmoid, "sigmoid"):
        return "sigmoid"
    if type(module) is nn.Hardsigmoid or called(node) is F.hardsigmoid:
        return "hardsigmoid"
    if type(module) is nn.ReLU or called(node) in (F.relu, torch.relu, "relu"):
        return "relu"
    if type(module) is nn.Hardtanh and (module.min_val, module.max_val) == (0.0, 1.0):
        return "unit_clip"
    if called(node) in (torch.clamp, torch.clip, "clamp", "clip"):
        values = dict(zip(("min", "max"), node.args[1:], strict=False)) | node.kwargs
        return "unit_clip" if (values.get("min"), values.get("max")) == (0, 1) else None
    return None
