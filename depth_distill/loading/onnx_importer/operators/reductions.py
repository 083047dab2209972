"""Reductions over axes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from depth_distill.loading.onnx_importer.builder import GraphBuilder, converts
from depth_distill.loading.onnx_importer.nodes import Node

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
}
_REDUCED = (*_REDUCTIONS, "ReduceL1", "ReduceL2", "ReduceProd", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")


@converts(*_REDUCED)
def reduce(node: Node, build: GraphBuilder) -> fx.Node:
    """A reduction over some axes, or over all where none are given."""
    source = build.value(node)
    rank = len(build.shape(source))
    given = build.setting(node, 1, "axes")
    if (given is None or given.size == 0) and node.attributes.get("noop_with_empty_axes", 0):
        return source
    axes = tuple(range(rank)) if given is None or given.size == 0 else tuple(int(axis) % rank for axis in given.flat)
    keep = bool(node.attributes.get("keepdims", 1))
    if node.operator in _REDUCTIONS:
        return build.call(_REDUCTIONS[node.operator], source, axes, keepdim=keep)
    if node.operator == "ReduceProd":
        for axis in sorted(axes, reverse=True):
            source = build.call(torch.prod, source, axis, keepdim=keep)
        return source
    if node.operator in ("ReduceL1", "ReduceL2"):
        return build.call(torch.linalg.vector_norm, source, 1 if node.operator == "ReduceL1" else 2, axes, keep)
    if node.operator == "ReduceSumSquare":
        return build.call(torch.sum, build.call(torch.mul, source, source), axes, keepdim=keep)
    if node.operator == "ReduceLogSumExp":
        return build.call(torch.logsumexp, source, axes, keepdim=keep)
    return build.call(torch.log, build.call(torch.sum, source, axes, keepdim=keep))


@converts("ArgMax", "ArgMin")
def argument(node: Node, build: GraphBuilder) -> fx.Node:
    """The place of the first extremum."""
    if node.attributes.get("select_last_index", 0):
        raise build.refusal(node, "it selects the last of equal values, which torch does not")
    function = torch.argmax if node.operator == "ArgMax" else torch.argmin
    keep = bool(node.attributes.get("keepdims", 1))
    return build.call(function, build.value(node), node.attributes.get("axis", 0), keep)


@converts("CumSum")
def cumulative_sum(node: Node, build: GraphBuilder) -> fx.Node:
    """Sums of all values so far."""
    if node.attributes.get("exclusive", 0) or node.attributes.get("reverse", 0):
        raise build.refusal(node, "it is exclusive or reversed, expected neither")
    return build.call(torch.cumsum, build.value(node), int(build.constant(node, 1, "axis").item()))


@converts("Einsum")
def einsum(node: Node, build: GraphBuilder) -> fx.Node:
    """A sum of products by its formula."""
    operands = [build.value(node, position) for position in range(len(node.inputs))]
    return build.call(torch.einsum, node.attributes["equation"].replace(" ", ""), *operands)
