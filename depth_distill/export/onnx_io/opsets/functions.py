"""Rewrites of operators that are newer than the version to write, as arithmetic of older ones."""

import math
from collections.abc import Sequence

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
from depth_distill.export.onnx_io.opsets.settings import positive_places


def gelu(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """``x (1 + erf(x / sqrt 2)) / 2``, or its approximation by tanh."""
    parts, x = Parts(node, at), node.input[0]
    half, one = parts.number("half", 0.5), parts.number("one", 1.0)
    if attributes(node).get("approximate", b"none") == b"tanh":
        cube = parts.apply("Mul", parts.apply("Mul", parts.apply("Mul", x, x), x), parts.number("cubic", 0.044715))
        sigmoidal = parts.apply(
            "Tanh", parts.apply("Mul", parts.apply("Add", x, cube), parts.number("slope", math.sqrt(2 / math.pi)))
        )
    else:
        sigmoidal = parts.apply("Erf", parts.apply("Mul", x, parts.number("slope", 1 / math.sqrt(2))))
    return parts.result("Mul", parts.apply("Mul", x, half), parts.apply("Add", sigmoidal, one))


def mish(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """``x tanh(softplus(x))``."""
    parts, x = Parts(node, at), node.input[0]
    return parts.result("Mul", x, parts.apply("Tanh", parts.apply("Softplus", x)))


def hard_swish(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """``x hardsigmoid(x)``."""
    parts, x = Parts(node, at), node.input[0]
    return parts.result("Mul", x, parts.apply("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def celu(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """``a elu(x / a)``."""
    parts, alpha = Parts(node, at), attributes(node).get("alpha", 1.0)
    scaled = parts.apply("Div", node.input[0], parts.number("alpha", alpha))
    return parts.result("Mul", parts.apply("Elu", scaled, alpha=1.0), parts.number("alpha", alpha))


def layer_normalization(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Centred and divided by the standard deviation over the last axes, then scaled and shifted."""
    if any(at.is_read(name) for name in node.output[1:]):
        raise InexpressibleError("its mean or deviation is read as well", "compute them on their own")
    parts, x, values = Parts(node, at), node.input[0], attributes(node)
    rank = len(at.shape(x))
    axes = list(range(values.get("axis", -1) % rank, rank))
    centred = parts.apply("Sub", x, parts.apply("ReduceMean", x, axes=axes, keepdims=1))
    variance = parts.apply("ReduceMean", parts.apply("Mul", centred, centred), axes=axes, keepdims=1)
    epsilon = parts.number("epsilon", values.get("epsilon", 1e-5))
    normal = [centred, parts.apply("Sqrt", parts.apply("Add", variance, epsilon))]
    bias = input_or_none(node, 2)
    if bias is None:
        return parts.result("Mul", parts.apply("Div", *normal), node.input[1])
    return parts.result("Add", parts.apply("Mul", parts.apply("Div", *normal), node.input[1]), bias)


def group_normalization(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Instance normalization of each group as one channel, then scaled and shifted by channel."""
    parts, values, (x, *affine) = Parts(node, at), attributes(node), node.input
    shape, groups, kind = at.shape(x), values["num_groups"], at.dtype(x)
    grouped = at.store(node, "grouped", np.array([shape[0], groups, -1], np.int64))
    whole = at.store(node, "shape", np.array(shape, np.int64))
    flat = [at.store(node, role, fill(groups, kind)) for role, fill in (("ones", np.ones), ("zeros", np.zeros))]
    epsilon = values.get("epsilon", 1e-5)
    normal = parts.apply("InstanceNormalization", parts.apply("Reshape", x, grouped), *flat, epsilon=epsilon)
    sides = (-1,) + (1,) * (len(shape) - 2)
    scale, bias = (
        at.store(node, role, at.constant(name).reshape(sides))
        for role, name in zip(("scale", "bias"), affine, strict=True)
    )
    return parts.result("Add", parts.apply("Mul", parts.apply("Reshape", normal, whole), scale), bias)


def softmax_of_all_later_axes(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Softmax ran over its axis and all later ones together: it is moved to the end."""
    x = node.input[0]
    shape = at.shape(x)
    rank = len(shape)
    axis = attributes(node).get("axis", -1) % rank
    if all(size == 1 for size in shape[axis + 1 :]):
        return changed(node, axis=axis)
    order = [*(each for each in range(rank) if each != axis), axis]
    parts = Parts(node, at)
    last = parts.apply(node.op_type, parts.apply("Transpose", x, perm=order), axis=rank - 1)
    return parts.result("Transpose", last, perm=[order.index(each) for each in range(rank)])


def depth_to_space(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """DepthToSpace counted blocks before channels (DCR) only: the other order (CRD) is a transposition."""
    if attributes(node).get("mode", b"DCR") == b"DCR":
        return changed(node, drop=["mode"])
    parts, side = Parts(node, at), attributes(node)["blocksize"]
    batch, channels, height, width = at.shape(node.input[0])
    inner = channels // side**2
    split = at.store(node, "blocks", np.array([batch, inner, side, side, height, width], np.int64))
    whole = at.store(node, "shape", np.array([batch, inner, height * side, width * side], np.int64))
    blocks = parts.apply("Reshape", node.input[0], split)
    return parts.result("Reshape", parts.apply("Transpose", blocks, perm=[0, 1, 4, 2, 5, 3]), whole)


def at_least(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """``not a < b``, which differs for NaN only."""
    parts = Parts(node, at)
    return parts.result("Not", parts.apply("Less", *node.input))


def at_most(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """``not a > b``, which differs for NaN only."""
    parts = Parts(node, at)
    return parts.result("Not", parts.apply("Greater", *node.input))


def round_half_to_even(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """``floor(x + 0.5)``, minus 1 where that is odd and x was half-way; for magnitudes below 2^23."""
    parts, x = Parts(node, at), node.input[0]
    half, two = parts.number("half", 0.5), parts.number("two", 2.0)
    up = parts.apply("Floor", parts.apply("Add", x, half))
    even = parts.apply("Mul", parts.apply("Floor", parts.apply("Mul", up, half)), two)
    # Where the sum is rounded up to a whole number although x is below half-way, this also takes the 1 back.
    is_below = parts.apply("Less", parts.apply("Sub", up, x), half)
    kind = onnx.helper.np_dtype_to_tensor_dtype(at.dtype(x))
    is_tie = parts.apply("Cast", parts.apply("Not", is_below), to=kind)
    return parts.result("Sub", up, parts.apply("Mul", parts.apply("Sub", up, even), is_tie))


def without_dropout(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Dropout does nothing behind a training."""
    training = input_or_none(node, 2)
    if any(at.is_read(name) for name in node.output[1:]) or (training is not None and at.constant(training).any()):
        raise InexpressibleError("it drops values at run time", "export the network in evaluation mode")
    return Parts(node, at).result("Identity", node.input[0])


def cast_like(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """A Cast to the type of the other tensor."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(at.dtype(node.input[1]))
    return Parts(node, at).result("Cast", node.input[0], to=kind)


def shape_as_constant(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """The static shape itself."""
    values = attributes(node)
    sizes = np.array(at.shape(node.input[0])[values.get("start", 0) : values.get("end")], np.int64)
    return Parts(node, at).result("Constant", value=onnx.numpy_helper.from_array(sizes))


def grid_sample_names(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """The modes of GridSample were called bilinear and bicubic, and took two dimensions only."""
    if len(at.shape(node.input[0])) != 4:
        raise InexpressibleError("it samples volumes", "sample images")
    names = {b"linear": "bilinear", b"cubic": "bicubic"}
    mode = attributes(node).get("mode", b"linear")
    return changed(node, mode=names.get(mode, mode))


def scatter(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """ScatterElements was called Scatter, and counted places from the front only."""
    (node,) = changed(node, op="Scatter", axis=attributes(node).get("axis", 0) % len(at.shape(node.input[0])))
    return changed(node, inputs=[node.input[0], positive_places(node, at), node.input[2]])


def quantizer_of_21(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """There were no blocks, and the codes had the type of the zero point."""
    only(node, "block_size", 0, "use one scale per tensor or per channel")
    (new,) = changed(node, drop=["block_size", "output_dtype"])
    kind = attributes(node).get("output_dtype", 0)
    if kind and input_or_none(node, 2) is None:
        zeros = np.zeros(at.shape(node.input[1]), onnx.helper.tensor_dtype_to_np_dtype(kind))
        return changed(new, inputs=[*node.input[:2], at.store(node, "zero_point", zeros)])
    return [new]


def quantizer_of_a_tensor(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """There was one scale per tensor, a scalar."""
    scale = at.constant(node.input[1])
    if scale.size > 1:
        raise InexpressibleError(
            "it has one scale per channel", "export for a target with weights.granularity: per_tensor"
        )
    inputs = [node.input[0]]
    for role, name in zip(("scale", "zero_point"), node.input[1:], strict=False):
        value = at.constant(name)
        inputs.append(name if value.ndim == 0 else at.store(node, role, value.reshape(())))
    return changed(node, drop=["axis"], inputs=inputs)
