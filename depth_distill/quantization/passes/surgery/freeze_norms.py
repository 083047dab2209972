"""Replace norms that measure each image (group, layer, instance) by a constant affine per channel."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, fx, nn

from depth_distill.quantization.graph.node_kinds import argument, operation_name
from depth_distill.quantization.passes.base import Context, PassResult
from depth_distill.quantization.passes.fold import depthwise_affine
from depth_distill.quantization.passes.surgery.affine import fold_before, fold_behind, permuted
from depth_distill.quantization.passes.surgery.edits import (
    erase,
    finish,
    free_name,
    insert_module,
    module_of,
    owner_of,
    parameter_like,
    place_of,
    take_out,
)
from depth_distill.quantization.passes.surgery.measure import Shape, shapes, watch
from depth_distill.quantization.passes.surgery.surgery import Changes, Surgery

_OVER_CHANNELS = ("layernorm", "rmsnorm")
_OVER_SPACE = ("groupnorm", "instancenorm", "instancenorm1d", "instancenorm2d")


@dataclass(frozen=True)
class FreezeNorms(Surgery):
    """Replace group, layer, instance and RMS norms by an affine per channel, see :func:`freeze_norms`."""

    name: ClassVar[str] = "freeze_norms"
    measures: ClassVar[bool] = True

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`freeze_norms`."""
        changed, changes = freeze_norms(graph, context)
        return PassResult(changed, changes.report("norms became an affine per channel"))


def freeze_norms(graph_module: fx.GraphModule, context: Context) -> tuple[fx.GraphModule, Changes]:
    """A copy whose norms do not measure their input any more, and what became of each.

    A norm divides by a deviation that it measures on each image (group and instance norm) or at each position (layer
    norm over channels). It becomes the affine per channel that is nearest to it, in least squares, over all positions
    of the calibration images: ``y = a x + b`` with ``a = cov(x, y) / var(x)`` and ``b = mean(y) - a mean(x)``. The
    affine is folded into the layer before the norm where nothing else reads that layer, else into the layers behind it
    where none of them pads, else it becomes a depthwise 1 x 1 convolution ``<norm>_affine``. Permutations around a
    layer norm over channels are taken out where they cancel.

    Args:
        graph_module: a traced network without batch norm.
        context: calibration images; without them the structure is the same, and each affine is the identity.
    """
    changed = copy.deepcopy(graph_module)
    shape_of = shapes(changed, context)
    done: dict[str, str] = {}
    left: dict[str, str] = {}
    norms: dict[fx.Node, int] = {}
    for node in changed.graph.nodes:
        channel = _channel(changed, node, shape_of)
        if isinstance(channel, int):
            norms[node] = channel
        elif channel is not None:
            left[place_of(node)] = channel
    found = _affines(changed, norms, shape_of, context)
    for node, channel in norms.items():
        affine, place = found[node], place_of(node)
        where = _put(changed, node, channel, affine, shape_of)
        if where is None:
            left[place] = "no layer beside it can take a factor and a shift per channel"
            continue
        explained = f", {100 * affine.explained:.0f} % of the variance kept" if context.images else ""
        done[place] = f"an affine in {where}{explained}"
        if node.op == "call_module":  # hooks by name still work
            changed.add_submodule(str(node.target), nn.Identity())
        else:
            take_out(node, node.all_input_nodes[0])
    _cancel_permutations(changed, shape_of)
    return finish(changed), Changes(done, left)


@dataclass(frozen=True)
class _Affine:
    """Factor and shift per channel, ``(C,)`` float64, and the share of the norm's variance that they explain."""

    factor: Tensor
    shift: Tensor
    explained: float


def _channel(graph_module: fx.GraphModule, node: fx.Node, shape_of: Mapping[fx.Node, Shape]) -> int | str | None:
    """The dimension of a norm's channels; why it cannot be replaced; or None of a node that is no norm."""
    name = operation_name(graph_module, node)
    if node.op not in ("call_module", "call_function") or name not in (*_OVER_CHANNELS, *_OVER_SPACE):
        return None
    if name in _OVER_SPACE:
        return 1
    module = module_of(graph_module, node)
    normalized = argument(node, 1, "normalized_shape") if module is None else module.normalized_shape
    if not isinstance(normalized, int) and len(cast(Any, normalized)) > 1:
        return "it normalizes over positions, too"
    return len(shape_of[node]) - 1


def _affines(
    graph_module: fx.GraphModule, norms: Mapping[fx.Node, int], shape_of: Mapping[fx.Node, Shape], context: Context
) -> dict[fx.Node, _Affine]:
    counts = {node: shape_of[node][channel] for node, channel in norms.items()}
    if not context.images:
        return {
            node: _Affine(torch.ones(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64), 1.0)
            for node, count in counts.items()
        }
    sums = {node: _Sums(count) for node, count in counts.items()}

    def keep(node: fx.Node, before: Any, value: Any) -> None:
        if node in sums:
            sums[node].add(*(each.double().movedim(norms[node], -1).flatten(0, -2).cpu() for each in (before, value)))

    watch(graph_module, context.batches, keep)
    return {node: each.affine() for node, each in sums.items()}


class _Sums:
    """Sums over positions of a norm's input ``x`` and output ``y``, per channel."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.x, self.y, self.xx, self.yy, self.xy = torch.zeros(5, channels, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        self.count += len(x)
        for total, values in ((self.x, x), (self.y, y), (self.xx, x * x), (self.yy, y * y), (self.xy, x * y)):
            total += values.sum(0)

    def affine(self) -> _Affine:
        mean_x, mean_y = self.x / self.count, self.y / self.count
        var_x = (self.xx / self.count - mean_x.square()).clamp(min=0)
        var_y = (self.yy / self.count - mean_y.square()).clamp(min=0)
        covariance = self.xy / self.count - mean_x * mean_y
        # A channel that never changes has no slope; its norm is a constant, too.
        varies = var_x > 1e-12 * (self.xx / self.count)
        factor = torch.where(varies, covariance / var_x.clamp(min=1e-300), torch.zeros_like(var_x))
        explained = (factor * covariance).sum() / var_y.sum().clamp(min=1e-300)
        return _Affine(factor, mean_y - factor * mean_x, float(explained))


def _put(
    graph_module: fx.GraphModule, node: fx.Node, channel: int, affine: _Affine, shape_of: Mapping[fx.Node, Shape]
) -> str | None:
    """Put the affine of a norm somewhere; the name of the layers that it is in, None if it fits nowhere."""
    source, rank = node.all_input_nodes[0], len(shape_of[node])
    alone = all(user is node for user in source.users)
    if alone:
        before = fold_before(graph_module, source, channel, rank, affine.factor, affine.shift)
        if before is not None:
            return before
    behind = fold_behind(graph_module, node, channel, rank, affine.factor, affine.shift)
    if behind is not None:
        return ", ".join(behind)
    reader = node
    moved = permuted(source, channel, rank) if alone and source.all_input_nodes else None
    if moved is not None:  # the affine goes in front of the permutation
        reader, source, channel = source, source.all_input_nodes[0], moved
    if rank != 4 or channel != 1:
        return None
    name = free_name(graph_module, f"{owner_of(node)}_affine")
    own = depthwise_affine(affine.factor, affine.shift, parameter_like(graph_module))
    reader.replace_input_with(source, insert_module(graph_module, name, own, source, reader))
    return name


def _cancel_permutations(graph_module: fx.GraphModule, shape_of: Mapping[fx.Node, Shape]) -> None:
    """Take out each permutation that undoes the one before it."""
    for node in list(graph_module.graph.nodes):
        if not node.op.startswith("call") or node not in shape_of:
            continue
        rank = len(shape_of[node])
        second = [permuted(node, place, rank) for place in range(rank)]
        if second[0] is None:
            continue
        before = node.all_input_nodes[0]
        while operation_name(graph_module, before) in ("identity", "contiguous"):
            before = before.all_input_nodes[0]
        first = [permuted(before, place, rank) for place in range(rank)]
        if first[0] is not None and [first[cast(int, place)] for place in second] == list(range(rank)):
            node.replace_all_uses_with(before.all_input_nodes[0])
            erase(node)
