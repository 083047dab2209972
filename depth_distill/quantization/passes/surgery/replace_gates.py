"""Take squeeze-and-excite gates out: their mean over the calibration images is a constant factor per channel."""

import copy
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx

from depth_distill.quantization.graph.node_kinds import argument, operation_name
from depth_distill.quantization.passes.base import Context, PassResult
from depth_distill.quantization.passes.fold import depthwise_affine
from depth_distill.quantization.passes.surgery.affine import fold_before, fold_behind
from depth_distill.quantization.passes.surgery.edits import (
    erase,
    finish,
    free_name,
    insert_module,
    owner_of,
    parameter_like,
    place_of,
)
from depth_distill.quantization.passes.surgery.measure import Shape, shapes, watch
from depth_distill.quantization.passes.surgery.surgery import Changes, Surgery

Instead = Literal["none", "conv"]

_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_SIGMOIDS = ("sigmoid", "hardsigmoid")
_RESHAPES = (
    "view", "reshape", "unsqueeze", "expand", "expandas", "viewas", "squeeze", "flatten", "transpose", "identity",
)  # fmt: skip


@dataclass(frozen=True)
class ReplaceGates(Surgery):
    """Replace squeeze-and-excite gates by their mean over the calibration images, see :func:`replace_gates`.

    Args:
        by: ``none`` folds the mean gate into a neighbouring convolution, ``conv`` puts a depthwise 1 x 1 convolution
            of its own there, which training can then move.
    """

    name: ClassVar[str] = "replace_gates"
    measures: ClassVar[bool] = True

    by: Instead = "none"

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`replace_gates`."""
        changed, changes = replace_gates(graph, context, self.by)
        return PassResult(changed, changes.report("gates became constant factors"))


def replace_gates(
    graph_module: fx.GraphModule, context: Context, by: Instead = "none"
) -> tuple[fx.GraphModule, Changes]:
    """A copy without squeeze-and-excite gates (Hu et al. 2018), and what became of each.

    A gate is a sigmoid or hard sigmoid of something that is computed from globally pooled tensors only, and that a
    tensor is multiplied by. The product becomes the tensor times the mean gate per channel: folded into the
    convolutions that read it; else into the convolution before it, also through a ReLU, which is exact because gates
    are not negative; else, and with ``by="conv"`` always, into a depthwise 1 x 1 convolution ``<gate>_factor``.

    Args:
        graph_module: a traced network without batch norm.
        context: calibration images; without them the structure is the same, and gates are 1.
        by: see :class:`ReplaceGates`.
    """
    changed = copy.deepcopy(graph_module)
    shape_of = shapes(changed, context)
    gates, left = _gates(changed, shape_of)
    means = _means(changed, gates, shape_of, context)
    done: dict[str, str] = {}
    for gate in gates:
        readers = list(gate.product.users)
        for reader in readers:
            reader.replace_input_with(gate.product, gate.tensor)
        erase(gate.product)
        mean = means[gate.operand]
        alone = all(user in readers for user in gate.tensor.users if user in shape_of)
        where = _fold(changed, gate.tensor, mean) if by == "none" and alone else None
        if where is None:
            where = free_name(changed, f"{gate.owner}_factor")
            first = next(node for node in changed.graph.nodes if node in readers)
            factor = depthwise_affine(mean, torch.zeros_like(mean), parameter_like(changed))
            factor.bias = None
            convolution = insert_module(changed, where, factor, gate.tensor, first)
            for reader in readers:
                reader.replace_input_with(gate.tensor, convolution)
        done[gate.place] = f"mean {float(mean.mean()):.3f}, in {where}"
    return finish(changed), Changes(done, left)


@dataclass(frozen=True)
class _Gate:
    """``product = tensor * operand``; ``place`` and ``owner`` are names of the sigmoid and its module."""

    product: fx.Node
    tensor: fx.Node
    operand: fx.Node
    place: str
    owner: str


def _gates(graph_module: fx.GraphModule, shape_of: Mapping[fx.Node, Shape]) -> tuple[list[_Gate], dict[str, str]]:
    """Every gate, and why other products with a sigmoid are none."""
    gates: list[_Gate] = []
    left: dict[str, str] = {}
    for node in graph_module.graph.nodes:
        if node.target not in _PRODUCTS or len(node.args) != 2 or len(shape_of.get(node, ())) != 4:
            continue
        first, second = node.args
        if first not in shape_of or second not in shape_of:
            continue
        for tensor, operand in ((first, second), (second, first)):
            sigmoid = _sigmoid_behind(graph_module, operand)
            if sigmoid is None or sigmoid.all_input_nodes[0] is tensor:  # the latter is a SiLU or a HardSwish
                continue
            place = place_of(sigmoid)
            if not _is_pooled(graph_module, sigmoid, shape_of):
                left[place] = "it is computed from tensors that are not pooled over the whole image"
            elif shape_of[tensor] != shape_of[node]:
                left[place] = "what it multiplies is of another shape than the product"
            else:
                gates.append(_Gate(node, tensor, operand, place, owner_of(sigmoid)))
            break
    return gates, left


def _sigmoid_behind(graph_module: fx.GraphModule, operand: fx.Node) -> fx.Node | None:
    while operation_name(graph_module, operand) in _RESHAPES:
        operand = operand.all_input_nodes[0]
    return operand if operation_name(graph_module, operand) in _SIGMOIDS else None


def _is_pooled(graph_module: fx.GraphModule, node: fx.Node, shape_of: Mapping[fx.Node, Shape]) -> bool:
    """Whether everything that a node is computed from was pooled over the whole image."""
    if node.op == "placeholder":
        return False
    if _pools_globally(graph_module, node, shape_of):
        return True
    name = operation_name(graph_module, node)
    sources = node.all_input_nodes[:1] if name in _RESHAPES else node.all_input_nodes
    return all(_is_pooled(graph_module, each, shape_of) for each in sources if each in shape_of)


def _pools_globally(graph_module: fx.GraphModule, node: fx.Node, shape_of: Mapping[fx.Node, Shape]) -> bool:
    name = operation_name(graph_module, node)
    if name in ("adaptiveavgpool2d", "adaptivemaxpool2d"):
        return shape_of[node][-2:] == (1, 1)
    if name in ("avgpool2d", "maxpool2d"):
        return shape_of[node][-2:] == (1, 1) != shape_of[node.all_input_nodes[0]][-2:]
    if name in ("mean", "amax"):
        rank = len(shape_of[node.all_input_nodes[0]])
        dims = argument(node, 1, "dim")
        reduced = {each % rank for each in (dims if isinstance(dims, Sequence) else [dims])} if dims is not None else {}
        return rank > 2 and set(range(2, rank)) <= set(reduced)
    return False


def _means(
    graph_module: fx.GraphModule, gates: Sequence[_Gate], shape_of: Mapping[fx.Node, Shape], context: Context
) -> dict[fx.Node, Tensor]:
    """Mean of each gate over the calibration images, ``(C,)`` float64; ones without images."""
    channels = {gate.operand: shape_of[gate.tensor][1] for gate in gates}
    if not context.images:
        return {operand: torch.ones(count, dtype=torch.float64) for operand, count in channels.items()}
    rows: dict[fx.Node, list[Tensor]] = {operand: [] for operand in channels}

    def keep(node: fx.Node, _: object, value: Any) -> None:
        if node in rows:
            rows[node].append(value.double().flatten(2).mean(2))

    watch(graph_module, context.batches, keep)
    return {operand: torch.cat(found).mean(0).expand(channels[operand]) for operand, found in rows.items()}


def _fold(graph_module: fx.GraphModule, tensor: fx.Node, mean: Tensor) -> str | None:
    behind = fold_behind(graph_module, tensor, 1, 4, mean)
    if behind is not None:
        return ", ".join(behind)
    return fold_before(graph_module, tensor, 1, 4, mean) if len(tensor.users) == 1 else None
