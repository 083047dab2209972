"""Put a constant affine per channel into a neighbouring layer, or into a depthwise 1 x 1 convolution of its own."""

from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from depth_distill.quantization.graph.node_kinds import argument, operation_name
from depth_distill.quantization.passes.fold import Layer, fold_affine
from depth_distill.quantization.passes.surgery.edits import called_once

_IDENTITIES = ("identity", "dropout", "dropout2d", "contiguous", "clone", "detach", "float")
_HOMOGENEOUS = ("relu", "leakyrelu", "prelu", "maxpool2d", "avgpool2d", "upsamplingnearest2d")


def permuted(node: fx.Node, channel: int, dims: int) -> int | None:
    """Where the channels stood before a node that permutes, if they stand at ``channel`` of ``dims`` behind it.

    None of a node that does anything else.
    """
    if node.op not in ("call_function", "call_method"):
        return None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "permute":
        given = argument(node, 1, "dims")
        order: Any = given if isinstance(given, list | tuple) else node.args[1:]
        return int(order[channel]) % dims
    if name in ("transpose", "swapaxes"):
        word = "dim" if name == "transpose" else "axis"
        first, second = (int(argument(node, place, f"{word}{place - 1}")) % dims for place in (1, 2))
        return second if channel == first else first if channel == second else channel
    return None


def fold_before(
    graph_module: fx.GraphModule, node: fx.Node, channel: int, dims: int, factor: Tensor, shift: Tensor | None = None
) -> str | None:
    """Fold an affine of the tensor ``node`` into the layer that it comes from; the layer's name, None if there is none.

    Nothing else may read what lies between. Permutations may lie between, and without a shift and with factors of 0 or
    more also ReLU and other positively homogeneous operators.

    Args:
        graph_module: the graph, which is changed.
        node: the tensor whose readers want ``factor * x + shift``; all of them do.
        channel: the dimension of its channels.
        dims: the number of its dimensions.
        factor: factor per channel, ``(C,)``.
        shift: shift per channel, ``(C,)``; None for 0.
    """
    homogeneous = shift is None and bool((factor >= 0).all())
    while True:
        layer = called_once(graph_module, node, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        if layer is not None:
            is_linear = isinstance(layer, nn.Linear)
            outputs = layer.out_features if is_linear else layer.out_channels
            if channel % dims != (dims - 1 if is_linear else 1) or outputs != len(factor):
                return None
            had_bias = layer.bias is not None
            added = torch.zeros_like(factor) if shift is None else shift
            fold_affine(cast(Layer, layer), factor.double(), added.double())
            if shift is None and not had_bias:
                layer.bias = None
            return str(node.target)
        name = operation_name(graph_module, node)
        before = permuted(node, channel % dims, dims)
        if before is None and name not in (*_IDENTITIES, *(_HOMOGENEOUS if homogeneous else ())):
            return None
        channel = channel if before is None else before
        node = node.all_input_nodes[0]
        if len(node.users) != 1:
            return None


def fold_behind(
    graph_module: fx.GraphModule, node: fx.Node, channel: int, dims: int, factor: Tensor, shift: Tensor | None = None
) -> list[str] | None:
    """Fold an affine of the tensor ``node`` into the layers that read it; their names, None if something else reads it.

    Operators as in :func:`fold_before` may lie between. A shift goes through a convolution only where that does
    not pad with zeros.
    """
    layers = _layers_behind(graph_module, node, channel % dims, dims, factor, shift)
    if layers is None:
        return None
    for layer in layers.values():
        _fold_into_inputs(layer, factor.double(), None if shift is None else shift.double())
    return list(layers) or None


def _layers_behind(
    graph_module: fx.GraphModule, node: fx.Node, channel: int, dims: int, factor: Tensor, shift: Tensor | None
) -> dict[str, Layer] | None:
    """The layers that read a tensor, also through operators that keep its channels; None if anything else does."""
    homogeneous = shift is None and bool((factor >= 0).all())
    passing = (*_IDENTITIES, *(_HOMOGENEOUS if homogeneous else ()))
    layers: dict[str, Layer] = {}
    for user in node.users:
        layer = called_once(graph_module, user, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        if layer is not None:
            is_linear = isinstance(layer, nn.Linear)
            inputs = layer.in_features if is_linear else layer.in_channels
            if channel != (dims - 1 if is_linear else 1) or inputs != len(factor):
                return None
            if shift is not None and not _reads_no_border(layer):
                return None
            layers[str(user.target)] = layer
            continue
        places = [permuted(user, place, dims) for place in range(dims)]
        if places[0] is None and operation_name(graph_module, user) not in passing:
            return None
        moved = channel if places[0] is None else places.index(channel)
        behind = _layers_behind(graph_module, user, moved, dims, factor, shift)
        if behind is None:
            return None
        layers.update(behind)
    return layers


def _reads_no_border(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.padding in ((0, 0), "valid"))


def _fold_into_inputs(layer: Layer, factor: Tensor, shift: Tensor | None) -> None:
    """Let a layer read ``factor * x + shift`` instead of its input ``x``, in place."""
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out / groups, kh, kw)
        columns = factor.view(-1, 1, 1, 1)
    elif isinstance(layer, nn.Conv2d):  # (out, in / groups, kh, kw): output channels of a group read its inputs
        rows = factor.view(layer.groups, 1, -1).expand(-1, layer.out_channels // layer.groups, -1)
        columns = rows.reshape(layer.out_channels, -1, 1, 1)
    else:
        columns = factor.view(1, -1)
    trainable = layer.weight.requires_grad
    if shift is not None:
        assert not isinstance(layer, nn.ConvTranspose2d)
        if isinstance(layer, nn.Conv2d):
            rows = shift.view(layer.groups, 1, -1).expand(-1, layer.out_channels // layer.groups, -1)
            added = (weight.sum((2, 3)) * rows.reshape(layer.out_channels, -1)).sum(1)
        else:
            added = weight @ shift
        bias = added if layer.bias is None else layer.bias.detach().double() + added
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype), trainable)
    layer.weight = nn.Parameter((weight * columns).to(layer.weight.dtype), trainable)
