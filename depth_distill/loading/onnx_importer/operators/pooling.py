"""Pooling."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.loading.onnx_importer.builder import GraphBuilder, converts
from depth_distill.loading.onnx_importer.nodes import Node
from depth_distill.loading.onnx_importer.operators.convolutions import crop_end, pads, spatial, torch_pads

_MAX_POOLS: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE_POOLS: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_GLOBAL_POOLS: dict[str, dict[int, Any]] = {
    "GlobalAveragePool": {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d},
    "GlobalMaxPool": {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d},
}


@converts("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node, build: GraphBuilder) -> fx.Node:
    """Pooling to one value per channel."""
    source = build.value(node)
    return build.module(_GLOBAL_POOLS[node.operator][len(build.shape(source)) - 2](1), source, node)


@converts("MaxPool")
def max_pool(node: Node, build: GraphBuilder) -> fx.Node:
    """Pads at the end alone, as of TensorFlow's SAME, are windows that reach over the border where that is equal."""
    source = build.value(node)
    kernel = list(node.attributes["kernel_shape"])
    stride, dilation = spatial(node, "strides", len(kernel)), spatial(node, "dilations", len(kernel))
    size = build.shape(source)[2:]
    begin, end = pads(node, size, kernel, stride, dilation)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    ceil = bool(node.attributes.get("ceil_mode", 0))
    wanted = _outputs(size, reach, stride, begin, end, ceil)
    cls = _MAX_POOLS[len(kernel)]
    if all(before <= k // 2 for before, k in zip(begin, kernel, strict=True)):
        for mode in (False, True):
            found = _outputs(size, reach, stride, begin, begin, mode)
            if all(some >= all_ for some, all_ in zip(found, wanted, strict=True)):
                layer = cls(tuple(kernel), tuple(stride), tuple(begin), tuple(dilation), ceil_mode=mode)
                return crop_end(
                    build,
                    build.module(layer, source, node),
                    [some - all_ for some, all_ in zip(found, wanted, strict=True)],
                )
    padded = build.call(F.pad, source, torch_pads(begin, end), "constant", float("-inf"))
    return build.module(cls(tuple(kernel), tuple(stride), 0, tuple(dilation), ceil_mode=ceil), padded, node)


@converts("AveragePool")
def average_pool(node: Node, build: GraphBuilder) -> fx.Node:
    """Unequal pads become a pad of their own; where pads do not count, a factor per pixel corrects the border."""
    source = build.value(node)
    kernel = list(node.attributes["kernel_shape"])
    rank = len(kernel)
    stride, dilation = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    if set(dilation) != {1}:
        raise build.refusal(node, f"dilations {dilation}, expected 1: torch has no dilated average")
    size = build.shape(source)[2:]
    begin, end = pads(node, size, kernel, stride, dilation)
    ceil, counts = bool(node.attributes.get("ceil_mode", 0)), bool(node.attributes.get("count_include_pad", 0))
    cls = _AVERAGE_POOLS[rank]
    if begin == end and all(before <= k // 2 for before, k in zip(begin, kernel, strict=True)):
        return build.module(cls(tuple(kernel), tuple(stride), tuple(begin), ceil, counts), source, node)
    padded = build.call(F.pad, source, torch_pads(begin, end))
    pooled = build.module(cls(tuple(kernel), tuple(stride), 0, ceil), padded, node)
    if counts:
        return pooled
    inside = F.pad(torch.ones(1, 1, *size), torch_pads(begin, end))
    share = cls(tuple(kernel), tuple(stride), 0, ceil)(inside)
    return build.call(operator.mul, pooled, build.buffer(f"{node.label}.border", 1 / share))


@converts("LpPool", "GlobalLpPool")
def lp_pool(node: Node, build: GraphBuilder) -> fx.Node:
    """Roots of sums of powers."""
    source = build.value(node)
    power = float(node.attributes.get("p", 2))
    if set(node.attributes.get("dilations", [1])) != {1} or node.attributes.get("ceil_mode", 0):
        raise build.refusal(node, "it is dilated or in ceil mode, expected neither")
    if node.operator == "GlobalLpPool":
        axes = tuple(range(2, len(build.shape(source))))
        return build.call(torch.linalg.vector_norm, source, power, axes, True)
    kernel = list(node.attributes["kernel_shape"])
    begin, end = pads(node, build.shape(source)[2:], kernel, spatial(node, "strides", len(kernel)), [1] * len(kernel))
    if any(begin) or any(end) or len(kernel) > 2:
        raise build.refusal(node, "it is padded or has more than 2 spatial dimensions")
    stride = tuple(spatial(node, "strides", len(kernel)))
    cls = {1: nn.LPPool1d, 2: nn.LPPool2d}[len(kernel)]
    layer = cls(power, tuple(kernel) if len(kernel) > 1 else kernel[0], stride if len(kernel) > 1 else stride[0])
    return build.module(layer, build.call(torch.abs, source), node)


def _outputs(
    size: Sequence[int],
    reach: Sequence[int],
    stride: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    ceil: bool,
) -> list[int]:
    """Number of windows per dimension; with ``ceil`` a last one that starts inside, or in the pads at the start."""
    counts = []
    for length, r, s, before, after in zip(size, reach, stride, begin, end, strict=True):
        room = length + before + after - r
        count = -(-room // s) + 1 if ceil else room // s + 1
        if ceil and (count - 1) * s >= length + before:
            count -= 1
        counts.append(count)
    return counts
