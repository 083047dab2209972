"""Operators that choose values by their place."""

import operator

import numpy as np
import torch
from torch import fx

from depth_distill.loading.onnx_importer.builder import GraphBuilder, as_tensor, converts
from depth_distill.loading.onnx_importer.nodes import Node


@converts("Slice")
def slice_(node: Node, build: GraphBuilder) -> fx.Node:
    """Ranges along axes; a negative step reverses first."""
    source = build.value(node)
    shape = build.shape(source)
    starts, ends = build.setting(node, 1, "starts"), build.setting(node, 2, "ends")
    assert starts is not None
    assert ends is not None
    axes = build.setting(node, 3, "axes")
    steps = build.setting(node, 4, "steps")
    chosen = [slice(None)] * len(shape)
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = int(axes[place]) % len(shape) if axes is not None else place
        step = int(steps[place]) if steps is not None else 1
        size = shape[axis]
        if step < 0:
            source = build.call(torch.flip, source, (axis,))
            # Place i is now size - 1 - i. ONNX counts from the end, and clamps an end before the start to -1.
            start = min(start + size if start < 0 else start, size - 1)
            end = max(end + size if end < 0 else end, -1)
            start, end, step = size - 1 - start, size - 1 - end, -step
        if start == 0 and end >= size and step == 1:
            continue
        chosen[axis] = slice(None if start == 0 else start, None if end >= size else end, None if step == 1 else step)
    if all(each == slice(None) for each in chosen):
        return source
    while chosen and chosen[-1] == slice(None):
        chosen.pop()
    return build.call(operator.getitem, source, tuple(chosen))


@converts("Gather")
def gather(node: Node, build: GraphBuilder) -> fx.Node:
    """One place, a range, or any places."""
    source = build.value(node)
    shape = build.shape(source)
    axis = node.attributes.get("axis", 0) % len(shape)
    ahead = (slice(None),) * axis
    if not build.is_constant(node, 1):
        return build.call(operator.getitem, source, (*ahead, build.value(node, 1)))
    places = build.constants[node.inputs[1]]
    if places.ndim == 0:
        return build.call(operator.getitem, source, (*ahead, int(places)))
    places = np.where(places < 0, places + shape[axis], places)
    if places.ndim == 1 and places.size and np.array_equal(places, np.arange(places[0], places[0] + places.size)):
        chosen = slice(int(places[0]), int(places[0]) + places.size)
        return build.call(operator.getitem, source, (*ahead, chosen)) if places.size < shape[axis] else source
    if shape == (places.size,) and np.array_equal(places.reshape(-1), np.arange(places.size)):
        return build.reshape(source, places.shape)  # torch's exporter writes a squeeze like that
    stored = build.buffer(f"{node.label}.indices", as_tensor(places))
    if places.ndim == 1:
        return build.call(torch.index_select, source, axis, stored)
    return build.call(operator.getitem, source, (*ahead, stored))


@converts("GatherElements")
def gather_elements(node: Node, build: GraphBuilder) -> fx.Node:
    """Places for every value."""
    source = build.value(node)
    axis = node.attributes.get("axis", 0) % len(build.shape(source))
    if build.is_constant(node, 1):
        places = build.constants[node.inputs[1]]
        places = np.where(places < 0, places + build.shape(source)[axis], places).astype(np.int64)
        return build.call(torch.gather, source, axis, build.buffer(f"{node.label}.indices", as_tensor(places)))
    return build.call(torch.gather, source, axis, build.value(node, 1))


@converts("TopK")
def top_k(node: Node, build: GraphBuilder) -> list[fx.Node]:
    """The largest or smallest values, and their places."""
    source = build.value(node)
    count = build.setting(node, 1, "k", "number")
    assert count is not None
    largest, ordered = (bool(node.attributes.get(name, 1)) for name in ("largest", "sorted"))
    found = build.call(torch.topk, source, int(count.reshape(())), node.attributes.get("axis", -1), largest, ordered)
    return [build.call(operator.getitem, found, place) for place in range(2)]


@converts("Trilu")
def triangle(node: Node, build: GraphBuilder) -> fx.Node:
    """The upper or lower triangle."""
    diagonal = int(build.constant(node, 1, "diagonal").reshape(())) if build.has(node, 1) else 0
    return build.call(torch.triu if node.attributes.get("upper", 1) else torch.tril, build.value(node), diagonal)


@converts("ConstantOfShape", "Range", "EyeLike", "OneHot", "NonZero")
def computed_shape(node: Node, build: GraphBuilder) -> fx.Node:
    """Refused: with constant inputs these are constants, otherwise their shape depends on the values of an image."""
    raise build.refusal(node, "its shape or values depend on the input of the network, expected constants")
