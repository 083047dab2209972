"""Convolutions and linear layers."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.loading.onnx_importer.builder import GraphBuilder, as_parameter, converts
from depth_distill.loading.onnx_importer.nodes import Node

FUSED_BIAS = "fused_bias"
"""Attribute of a layer that the Add behind it was merged into."""

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


@converts("Conv")
def conv(node: Node, build: GraphBuilder) -> fx.Node:
    """Pads that differ between two sides become a pad of their own."""
    source = build.value(node)
    if not build.is_constant(node, 1):
        return _functional_conv(node, build, source)
    weight = build.parameter(node, 1, "weight")
    rank = weight.ndim - 2
    if rank not in _CONVOLUTIONS:
        raise build.refusal(node, f"it has {rank} spatial dimensions, expected 1 to 3")
    stride, dilation = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    begin, end = pads(node, build.shape(source)[2:], weight.shape[2:], stride, dilation)
    source, padding = padded(build, source, begin, end)
    groups = node.attributes.get("group", 1)
    layer = _CONVOLUTIONS[rank](
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        tuple(stride),  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        tuple(dilation),  # type: ignore[arg-type]
        groups,
        bias=False,
        device="meta",
    )
    return _with_weights(layer, weight, node, build, source)


@converts("ConvTranspose")
def conv_transpose(node: Node, build: GraphBuilder) -> fx.Node:
    """What the file crops more at the end than at the start is cropped behind the layer."""
    source = build.value(node)
    weight = build.parameter(node, 1, "weight")
    rank = weight.ndim - 2
    if rank not in _TRANSPOSED:
        raise build.refusal(node, f"it has {rank} spatial dimensions, expected 1 to 3")
    stride, dilation = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    size = build.shape(source)[2:]
    reach = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    begin, end = _transposed_pads(node, size, reach, stride)
    if min(begin, default=0) < 0:
        raise build.refusal(node, f"pads {[*begin, *end]} enlarge the output at its start, expected 0 or more")
    # Cropped by ``begin`` at both ends, the output lacks ``begin - end`` at its end.
    missing = [before - after for before, after in zip(begin, end, strict=True)]
    if any(more >= max(s, d) for more, s, d in zip(missing, stride, dilation, strict=True)):
        raise build.refusal(node, f"its output is larger by {missing} than what torch can write")
    groups = node.attributes.get("group", 1)
    layer = _TRANSPOSED[rank](
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        tuple(stride),  # type: ignore[arg-type]
        tuple(begin),  # type: ignore[arg-type]
        tuple(max(more, 0) for more in missing),  # type: ignore[arg-type]
        groups,
        bias=False,
        dilation=tuple(dilation),  # type: ignore[arg-type]
        device="meta",
    )
    written = _with_weights(layer, weight, node, build, source)
    return crop_end(build, written, [max(-more, 0) for more in missing])


@converts("Gemm")
def gemm(node: Node, build: GraphBuilder) -> fx.Node:
    """A linear layer where weight and bias are constants, otherwise arithmetic."""
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    source = build.value(node)
    if node.attributes.get("transA", 0):
        source = build.call(torch.transpose, source, 0, 1)
    bias = build.constants[node.inputs[2]] if build.is_constant(node, 2) else None
    weight = build.constants[node.inputs[1]] if build.is_constant(node, 1) else None
    if weight is not None and not node.attributes.get("transB", 0):
        weight = weight.T
    is_row = bias is not None and weight is not None and bias.size in (1, len(weight)) and bias.shape[:-1] in ((), (1,))
    if weight is not None and (is_row or not build.has(node, 2)):
        row = None if bias is None else np.broadcast_to(bias.reshape(-1) * _like(bias, beta), (len(weight),))
        return linear(build, node, source, weight * _like(weight, alpha), row)
    second = build.value(node, 1)
    if node.attributes.get("transB", 0):
        second = build.call(torch.transpose, second, 0, 1)
    product = build.call(torch.matmul, source, second)
    product = product if alpha == 1 else build.call(torch.mul, product, alpha)
    if not build.has(node, 2):
        return product
    added = build.value(node, 2)
    return build.call(torch.add, product, added if beta == 1 else build.call(torch.mul, added, beta))


@converts("MatMul")
def matmul(node: Node, build: GraphBuilder) -> fx.Node:
    """A linear layer where the second operand is a constant matrix."""
    if build.is_constant(node, 1) and build.constants[node.inputs[1]].ndim == 2 and not build.is_constant(node, 0):
        weight = build.constants[node.inputs[1]].T
        return linear(build, node, build.value(node), weight, _fused_bias(node, build, len(weight)))
    operands = []
    for position in range(2):
        if build.is_constant(node, position) and build.constants[node.inputs[position]].ndim > 1:
            name = node.inputs[position]  # a weight, though of no layer
            operands.append(build.buffer(name, as_parameter(build.constants[name])))
        else:
            operands.append(build.value(node, position))
    return build.call(torch.matmul, *operands)


def linear(build: GraphBuilder, node: Node, source: fx.Node, weight: np.ndarray, bias: np.ndarray | None) -> fx.Node:
    """Write a linear layer with ``weight (out, in)`` and ``bias (out,)``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = as_parameter(np.ascontiguousarray(weight))
    if bias is not None:
        layer.bias = as_parameter(np.ascontiguousarray(bias))
    return build.module(layer, source, node)


def spatial(node: Node, name: str, rank: int, default: int = 1) -> list[int]:
    """An attribute with one number per spatial dimension."""
    return list(node.attributes.get(name) or [default] * rank)


def pads(
    node: Node, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Pads at the start and at the end of every spatial dimension."""
    rank = len(kernel)
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "", "VALID"):
        both = spatial(node, "pads", 2 * rank, 0) if mode != "VALID" else [0] * 2 * rank
        return both[:rank], both[rank:]
    # SAME: ceil(size / stride) outputs.
    total = [
        max((-(-length // s) - 1) * s + d * (k - 1) + 1 - length, 0)
        for length, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    less, more = [each // 2 for each in total], [each - each // 2 for each in total]
    return (more, less) if mode == "SAME_LOWER" else (less, more)


def padded(
    build: GraphBuilder, source: fx.Node, begin: Sequence[int], end: Sequence[int]
) -> tuple[fx.Node, tuple[int, ...]]:
    """The tensor with what has to be padded before the layer, and the padding that is left to the layer."""
    if list(begin) == list(end) and min(begin, default=0) >= 0:
        return source, tuple(begin)
    return build.call(F.pad, source, torch_pads(begin, end)), (0,) * len(begin)


def torch_pads(begin: Sequence[int], end: Sequence[int]) -> tuple[int, ...]:
    """Pads in torch's order: the last dimension first."""
    return tuple(each for pair in reversed(list(zip(begin, end, strict=True))) for each in pair)


def crop_end(build: GraphBuilder, source: fx.Node, crop: Sequence[int]) -> fx.Node:
    """Without the last ``crop`` positions of each spatial dimension."""
    if not any(crop):
        return source
    keep = tuple(slice(None, -each or None) for each in crop)
    return build.call(operator.getitem, source, (slice(None), slice(None), *keep))


def _with_weights(layer: Any, weight: nn.Parameter, node: Node, build: GraphBuilder, source: fx.Node) -> fx.Node:
    layer.weight = weight
    if build.has(node, 2):
        layer.bias = build.parameter(node, 2, "bias")
    else:
        fused = _fused_bias(node, build, layer.out_channels)
        layer.bias = None if fused is None else as_parameter(fused)
    return build.module(layer, source, node)


def _fused_bias(node: Node, build: GraphBuilder, channels: int) -> np.ndarray | None:
    name = node.attributes.get(FUSED_BIAS)
    return None if name is None else np.broadcast_to(build.constants[name].reshape(-1), (channels,)).copy()


def _functional_conv(node: Node, build: GraphBuilder, source: fx.Node) -> fx.Node:
    """A convolution with a weight that the network computes, as in dynamic filters."""
    weight = build.value(node, 1)
    kernel = build.shape(weight)[2:]
    rank = len(kernel)
    stride, dilation = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    begin, end = pads(node, build.shape(source)[2:], kernel, stride, dilation)
    source, padding = padded(build, source, begin, end)
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    bias = build.value(node, 2) if build.has(node, 2) else None
    groups = node.attributes.get("group", 1)
    return build.call(function, source, weight, bias, tuple(stride), padding, tuple(dilation), groups)


def _transposed_pads(
    node: Node, size: Sequence[int], reach: Sequence[int], stride: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What is cropped at the start and the end of the full output; ``output_padding`` counts against the end."""
    rank = len(size)
    extra = spatial(node, "output_padding", rank, 0)
    full = [s * (length - 1) + r for s, length, r in zip(stride, size, reach, strict=True)]
    wanted = list(node.attributes.get("output_shape") or [])[-rank:]
    mode = node.attributes.get("auto_pad", "NOTSET")
    if not wanted and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [length * s for length, s in zip(size, stride, strict=True)]
    if not wanted:
        begin, end = pads(node, size, reach, stride, [1] * rank)
        return begin, [after - more for after, more in zip(end, extra, strict=True)]
    total = [length + more - out for length, more, out in zip(full, extra, wanted, strict=True)]
    half = [max(each, 0) // 2 for each in total]
    rest = [each - h for each, h in zip(total, half, strict=True)]
    begin, end = (half, rest) if mode == "SAME_UPPER" else (rest, half)
    begin = [max(each, 0) for each in begin]
    end = [each - b for each, b in zip(total, begin, strict=True)]
    return begin, [after - more for after, more in zip(end, extra, strict=True)]


def _like(value: np.ndarray, factor: float) -> Any:
    return value.dtype.type(factor)
