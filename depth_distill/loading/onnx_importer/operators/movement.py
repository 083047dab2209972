"""Operators that move values and change none."""

import math
import operator

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.loading.onnx_importer.builder import GraphBuilder, converts
from depth_distill.loading.onnx_importer.nodes import Node


@converts("Reshape")
def reshape(node: Node, build: GraphBuilder) -> fx.Node:
    """A reshape that takes any batch where its leading sizes allow it."""
    source = build.value(node)
    before = build.shape(source)
    sizes = [int(size) for size in build.constant(node, 1, "shape")]
    if not node.attributes.get("allowzero", 0):
        sizes = [before[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(before) // rest if rest else 0
    if math.prod(sizes) != math.prod(before):
        raise build.refusal(node, f"it reshapes {before} to {tuple(sizes)}, which has another number of values")
    return build.reshape(source, sizes)


@converts("Flatten")
def flatten(node: Node, build: GraphBuilder) -> fx.Node:
    """Two dimensions: those before the axis, and the rest."""
    source = build.value(node)
    shape = build.shape(source)
    axis = node.attributes.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return build.reshape(source, (math.prod(shape[:axis]), math.prod(shape[axis:])))


@converts("Transpose")
def transpose(node: Node, build: GraphBuilder) -> fx.Node:
    """Another order of the axes."""
    source = build.value(node)
    order = node.attributes.get("perm", list(reversed(range(len(build.shape(source))))))
    return source if list(order) == sorted(order) else build.call(torch.permute, source, tuple(order))


@converts("Squeeze")
def squeeze(node: Node, build: GraphBuilder) -> fx.Node:
    """Without axes of size 1: all of them, that of a batch of 1 included, where none are named."""
    source = build.value(node)
    shape = build.shape(source)
    given = build.setting(node, 1, "axes")
    axes = [int(axis) % len(shape) for axis in given.flat] if given is not None else []
    axes = axes or [axis for axis, size in enumerate(shape) if size == 1]
    for axis in sorted(axes, reverse=True):
        source = build.call(torch.squeeze, source, axis)
    return source


@converts("Unsqueeze")
def unsqueeze(node: Node, build: GraphBuilder) -> fx.Node:
    """With new axes of size 1."""
    source = build.value(node)
    given = build.setting(node, 1, "axes")
    assert given is not None
    rank = len(build.shape(source)) + given.size
    for axis in sorted(int(axis) % rank for axis in given.flat):
        source = build.call(torch.unsqueeze, source, axis)
    return source


@converts("Expand")
def expand(node: Node, build: GraphBuilder) -> fx.Node:
    """Repeated along axes of size 1; the batch is kept."""
    source = build.value(node)
    before = build.shape(source)
    after = np.broadcast_shapes(before, tuple(int(size) for size in build.constant(node, 1, "shape")))
    if after == before:
        return source
    aligned = (None,) * (len(after) - len(before)) + before
    sizes = tuple(-1 if old == new else new for old, new in zip(aligned, after, strict=True))
    return build.method("expand", source, sizes)


@converts("Tile")
def tile(node: Node, build: GraphBuilder) -> fx.Node:
    """Copies side by side."""
    repeats = tuple(int(each) for each in build.constant(node, 1, "repeats"))
    return build.value(node) if set(repeats) <= {1} else build.call(torch.tile, build.value(node), repeats)


@converts("Concat")
def concat(node: Node, build: GraphBuilder) -> fx.Node:
    """Constants, such as a class token, are repeated for every image of a batch."""
    values = [build.value(node, position) for position in range(len(node.inputs))]
    if len(values) == 1:
        return values[0]
    axis = node.attributes["axis"] % len(build.shape(values[0]))
    batched = next((each for each in values if build.batch_axis(each) not in (None, axis)), None)
    if batched is not None:
        batch = build.batch_axis(batched)
        assert batch is not None
        values = [
            _for_each_image(build, value, batched, batch)
            if build.batch_axis(value) is None and build.shape(value)[batch] == 1
            else value
            for value in values
        ]
    return build.call(torch.cat, values, axis)


@converts("Split")
def split(node: Node, build: GraphBuilder) -> list[fx.Node]:
    """Parts along an axis."""
    source = build.value(node)
    axis = node.attributes.get("axis", 0) % len(build.shape(source))
    size = build.shape(source)[axis]
    given = build.setting(node, 1, "split", "sizes")
    if given is None:
        part = -(-size // len(node.outputs))
        sizes = [min(part, size - part * place) for place in range(len(node.outputs))]
    else:
        sizes = [int(each) for each in given]
    parts = build.call(torch.split, source, sizes, axis)
    return [build.call(operator.getitem, parts, place) for place in range(len(sizes))]


@converts("Pad")
def pad(node: Node, build: GraphBuilder) -> fx.Node:
    """Constant, reflected or repeated borders; negative pads crop."""
    source = build.value(node)
    rank = len(build.shape(source))
    given = build.setting(node, 1, "pads")
    assert given is not None
    axes = [int(axis) % rank for axis in build.constant(node, 3, "axes")] if build.has(node, 3) else list(range(rank))
    begin, end = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        begin[axis], end[axis] = int(given[place]), int(given[place + len(axes)])
    mode = node.attributes.get("mode", "constant")
    names = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in names:
        raise build.refusal(node, f"mode {mode!r}, expected one of {', '.join(names)}")
    padded = [axis for axis in range(rank) if begin[axis] or end[axis]]
    if not padded:
        return source
    # torch reflects the last 1, 2 or 3 dimensions only, of tensors with 2 dimensions before them.
    first = min(padded) if mode == "constant" else max(min(padded), 2)
    if min(padded) < first or (mode != "constant" and rank - first > 3):
        raise build.refusal(node, f"{mode} pads of the axes {padded}, expected spatial dimensions")
    if mode != "constant":
        first = 2
    pads = tuple(each for axis in reversed(range(first, rank)) for each in (begin[axis], end[axis]))
    if mode != "constant":
        return build.call(F.pad, source, pads, names[mode])
    value = node.attributes.get("value", 0.0)
    if build.has(node, 2):
        value = build.constant(node, 2, "value").reshape(()).item()
    return build.call(F.pad, source, pads, "constant", value) if value else build.call(F.pad, source, pads)


@converts("DepthToSpace")
def depth_to_space(node: Node, build: GraphBuilder) -> fx.Node:
    """A pixel shuffle; with mode DCR the channels of the blocks are the outer ones."""
    source = build.value(node)
    block = node.attributes["blocksize"]
    batch, channels, height, width = build.shape(source)
    inner = channels // block**2
    if node.attributes.get("mode", "DCR") == "CRD" or inner == 1:
        return build.module(nn.PixelShuffle(block), source, node)
    blocks = build.reshape(source, (batch, block, block, inner, height, width))
    moved = build.call(torch.permute, blocks, (0, 3, 4, 1, 5, 2))
    return build.reshape(moved, (batch, inner, height * block, width * block))


@converts("SpaceToDepth")
def space_to_depth(node: Node, build: GraphBuilder) -> fx.Node:
    """Blocks of pixels as channels, the place in the block as the outer one."""
    source = build.value(node)
    block = node.attributes["blocksize"]
    batch, channels, height, width = build.shape(source)
    if channels == 1:
        return build.module(nn.PixelUnshuffle(block), source, node)
    blocks = build.reshape(source, (batch, channels, height // block, block, width // block, block))
    moved = build.call(torch.permute, blocks, (0, 3, 5, 1, 2, 4))
    return build.reshape(moved, (batch, channels * block**2, height // block, width // block))


def _for_each_image(build: GraphBuilder, value: fx.Node, like: fx.Node, axis: int) -> fx.Node:
    """A constant of size 1 along the batch, as often as ``like`` has images."""
    images = build.method("size", like, axis)
    sizes = [images if place == axis else -1 for place in range(len(build.shape(value)))]
    return build.method("expand", value, *sizes)
