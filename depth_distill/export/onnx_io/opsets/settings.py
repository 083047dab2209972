"""Rewrites of operators whose settings were attributes before they became inputs, or whose attributes are newer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from depth_distill.export.onnx_io.onnx_graph import attributes
from depth_distill.export.onnx_io.opsets.rewriting import (
    InexpressibleError,
    Parts,
    Rewriting,
    changed,
    input_or_none,
    only,
)

Rewrite = Callable[[onnx.NodeProto, Rewriting], Sequence[onnx.NodeProto]]
"""Nodes of the older version that compute the same as a node."""


def without(remedy: str, **allowed: Any) -> Rewrite:
    """A rewrite that drops attributes which have the one value that the older version computes."""

    def rewrite(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
        for name, value in allowed.items():
            only(node, name, value, remedy)
        return changed(node, drop=tuple(allowed))

    return rewrite


def dropping(*names: str) -> Rewrite:
    """A rewrite that drops attributes without an effect on what this package reads."""
    return lambda node, at: changed(node, drop=names)


def without_dilations(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Pools had no dilation."""
    if any(each != 1 for each in attributes(node).get("dilations", [])):
        raise InexpressibleError("it has dilations", "pool without dilation")
    return changed(node, drop=["dilations"])


def without_ceil_mode(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Pools rounded sizes down; rounding up is the same where nothing is left over."""
    (node,) = without_dilations(node, at)
    values = attributes(node)
    if values.get("ceil_mode", 0):
        before, after, count = at.shape(node.input[0])[2:], at.shape(node.output[0])[2:], len(values["kernel_shape"])
        pads, strides = values.get("pads", [0] * 2 * count), values.get("strides", [1] * count)
        down = tuple(
            (size + pads[axis] + pads[axis + count] - values["kernel_shape"][axis]) // strides[axis] + 1
            for axis, size in enumerate(before)
        )
        if down != after:
            raise InexpressibleError("ceil_mode is 1", "pad the input, or pool without ceil_mode")
    return changed(node, drop=["ceil_mode"])


def axes_as_attribute(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Reductions, Squeeze and Unsqueeze: their axes were an attribute."""
    name = input_or_none(node, 1)
    axes = [] if name is None else [int(each) for each in at.constant(name).reshape(-1)]
    if not axes and attributes(node).get("noop_with_empty_axes", 0):
        return Parts(node, at).result("Identity", node.input[0])
    return changed(node, inputs=node.input[:1], drop=["noop_with_empty_axes"], axes=axes or None)


def split_into_equal_parts(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Split had no num_outputs: without sizes, all parts were equal."""
    (node,) = changed(node, drop=["num_outputs"])
    if input_or_none(node, 1) is None:
        axis = attributes(node).get("axis", 0)
        sizes = [at.shape(name)[axis] for name in node.output]
        if len(set(sizes)) > 1:
            return changed(node, inputs=[node.input[0], at.store(node, "split", np.array(sizes, np.int64))])
    return [node]


def split_as_attribute(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """The sizes of Split were an attribute."""
    name = input_or_none(node, 1)
    sizes = None if name is None else at.constant(name).tolist()
    return changed(node, inputs=node.input[:1], split=sizes)


def pad_all_axes(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Pad had no axes: pads are given for all of them."""
    name = input_or_none(node, 3)
    if name is None:
        return changed(node, inputs=node.input[:3])
    rank, axes, given = len(at.shape(node.input[0])), at.constant(name).tolist(), at.constant(node.input[1]).tolist()
    pads = np.zeros((2, rank), np.int64)
    for position, axis in enumerate(axes):
        pads[:, axis] = given[position], given[position + len(axes)]
    return changed(node, inputs=[node.input[0], at.store(node, "pads", pads.reshape(-1)), *node.input[2:3]])


def pads_as_attribute(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Pads and value of Pad were attributes."""
    value = input_or_none(node, 2)
    return changed(
        node,
        inputs=node.input[:1],
        pads=at.constant(node.input[1]).tolist(),
        value=None if value is None else float(at.constant(value).item()),
    )


def bounds_as_attributes(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """The bounds of Clip were attributes."""
    bounds = [input_or_none(node, position) for position in (1, 2)]
    low, high = (None if name is None else float(at.constant(name).item()) for name in bounds)
    return changed(node, inputs=node.input[:1], min=low, max=high)


def slice_as_attributes(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Starts, ends and axes of Slice were attributes, and there were no steps."""
    starts, ends = (at.constant(name).tolist() for name in node.input[1:3])
    axes, steps = (input_or_none(node, position) for position in (3, 4))
    if steps is not None and any(each != 1 for each in at.constant(steps).reshape(-1)):
        raise InexpressibleError("it has steps", "use a strided convolution or pooling instead")
    return changed(
        node,
        inputs=node.input[:1],
        starts=starts,
        ends=ends,
        axes=None if axes is None else at.constant(axes).tolist(),
    )


def slice_from_the_front(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Slice counted axes from the front only."""
    axes = input_or_none(node, 3)
    if axes is None or (at.constant(axes) >= 0).all():
        return [node]
    values = at.constant(axes)
    positive = np.where(values < 0, values + len(at.shape(node.input[0])), values).astype(values.dtype)
    return changed(node, inputs=[*node.input[:3], at.store(node, "axes", positive), *node.input[4:]])


def gather_from_the_front(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Gather counted axes and places from the front only."""
    (node,) = positive_axes(node, at)
    return changed(node, inputs=[node.input[0], positive_places(node, at)])


def positive_places(node: onnx.NodeProto, at: Rewriting) -> str:
    """Name of the second input, which has places along the node's axis, counted from the front.

    Raises:
        InexpressibleError: it is computed at run time, and may count from the end.
    """
    name = node.input[1]
    places = at.constant(name)
    if (places >= 0).all():
        return name
    size = at.shape(node.input[0])[attributes(node).get("axis", 0)]
    return at.store(node, "indices", np.where(places < 0, places + size, places).astype(places.dtype))


def positive_axes(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Axes were counted from the front only."""
    values = attributes(node)
    axis, axes = values.get("axis"), values.get("axes")
    negative = [each for each in (axis, *(axes or ())) if each is not None and each < 0]
    if not negative:
        return [node]
    rank = len(at.shape(node.output[0] if node.op_type == "Unsqueeze" else node.input[0]))
    return changed(
        node,
        axis=None if axis is None else axis % rank,
        axes=None if axes is None else [each % rank for each in axes],
    )


def topk_of_the_largest(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """TopK took the largest values only, sorted, along an axis counted from the front."""
    only(node, "largest", 1, "take the largest of the negated values")
    (node,) = positive_axes(changed(node, drop=["largest", "sorted"])[0], at)
    return [node]


def k_as_attribute(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """K of TopK was an attribute."""
    return changed(node, inputs=node.input[:1], k=int(at.constant(node.input[1]).item()))


def constant_as_tensor(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Constant held a tensor only."""
    values = attributes(node)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, kind in kinds.items():
        if name in values:
            tensor = onnx.numpy_helper.from_array(np.asarray(values[name], kind))
            return changed(node, drop=[name], value=tensor)
    if "value" not in values:
        raise InexpressibleError("it holds strings", "leave them to the host")
    return [node]


def gemm_with_a_bias(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Gemm had to have a bias."""
    if input_or_none(node, 2) is not None:
        return [node]
    return changed(node, inputs=[*node.input[:2], at.store(node, "C", np.zeros(1, at.dtype(node.input[0])))])


def reshape_without_zeros(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """A 0 in the shape of Reshape always kept a size."""
    if attributes(node).get("allowzero", 0) and (at.constant(node.input[1]) == 0).any():
        raise InexpressibleError("allowzero is 1, and a size is 0", "leave the empty tensor out")
    return changed(node, drop=["allowzero"])


def exponent_of_the_same_type(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Base and exponent of Pow had one type."""
    base, exponent = node.input
    if at.dtype(base) == at.dtype(exponent):
        return [node]
    same = at.store(node, "exponent", at.constant(exponent).astype(at.dtype(base)))
    return changed(node, inputs=[base, same])


def explicit_pads(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """ConvTranspose split the padding of SAME_UPPER and SAME_LOWER the other way round."""
    if attributes(node).get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        raise InexpressibleError("auto_pad had another meaning", "give it pads")
    return [node]


def without_wrap(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Pad could not wrap around."""
    if attributes(node).get("mode") == b"wrap":
        raise InexpressibleError("it wraps around", "pad with zeros (pass zero_padding)")
    return [node]


def without_extremes(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Scatter could not keep the smallest or largest value."""
    if attributes(node).get("reduction") in (b"min", b"max"):
        raise InexpressibleError("it keeps extremes", "scatter without a reduction")
    return [node]
