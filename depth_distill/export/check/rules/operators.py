"""Rules on single operators: whether the target takes them, and their limits."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import onnx

from depth_distill.export.check.rules.finding import Finding, Findings, listed
from depth_distill.export.onnx_io.onnx_graph import OnnxGraph, attributes

_OWN_CONVOLUTIONS = "give each part its own convolution (--separate-outputs)"
_CHANNELS = {2: "(1, C)", 4: "(1, C, 1, 1)"}
_EITHER = " or ".join(_CHANNELS.values())
_WINDOWS = ("Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool")

Broken = tuple[str, str]
"""What was found and what is allowed, and what to do about it."""


def check_operator(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    """Apply every rule on the operator of a node, which must be one of ONNX's own."""
    rules = findings.target.operators
    if not rules.takes(node.op_type):
        key = "operators.forbidden" if node.op_type in rules.forbidden else "operators.supported"
        yield findings.violation(
            [node], key, f"{node.op_type} is not supported", "build the network without it, or do this step on the host"
        )
    key, limits = rules.limits_of(node.op_type)
    for name, limit in limits.given().items():
        for found, remedy in _RULES[name](node, graph, limit):
            yield findings.violation([node], f"{key}.{name}", found, remedy)


def _max_window(node: onnx.NodeProto, graph: OnnxGraph, limit: int) -> Iterator[Broken]:
    window = attributes(node).get("kernel_shape") or (graph.static_shape(node.input[1]) or ())[2:]
    if max(window, default=0) > limit:
        yield f"a window of {listed(window, ' x ')}, at most {limit}", "use several smaller windows in a row"


def _max_dilation(node: onnx.NodeProto, graph: OnnxGraph, limit: int) -> Iterator[Broken]:
    dilation = max(attributes(node).get("dilations") or [1])
    if dilation > limit:
        yield f"a dilation of {dilation}, at most {limit}", "use a stride, or smaller dilations in a row"


def _strides(node: onnx.NodeProto, graph: OnnxGraph, limit: str) -> Iterator[Broken]:
    strides = attributes(node).get("strides") or [1]
    if not all(_is_power_of_two(each) for each in strides):
        yield f"strides of {listed(strides)}, expected powers of two", "use strides of 1, 2 or 4"


def _norm(node: onnx.NodeProto, graph: OnnxGraph, limit: Sequence[int]) -> Iterator[Broken]:
    norm = attributes(node).get("p", 2)
    if norm not in limit:
        yield f"a norm of p = {norm}, allowed are {listed(limit)}", "use average or maximum pooling"


def _operands(node: onnx.NodeProto, graph: OnnxGraph, limit: str) -> Iterator[Broken]:
    constants = [name for name in node.input if name in graph.constants]
    if len(node.input) != 2 or len(constants) > 1:
        yield f"{len(node.input)} inputs, expected two of which one may be constant", "use several operators of two"
        return
    for name in constants:
        shape, (other,) = graph.constants[name].shape, (each for each in node.input if each != name)
        rank, channels = len(graph.shape(other) or ()), (graph.static_shape(other) or ())[1:2]
        # Along another number of axes, (1, C) would be one value per column.
        is_aligned = len(shape) == rank or not rank or all(size == 1 for size in shape)
        is_shape = is_aligned and len(shape) in (2, 4) and shape[0] == 1 and shape[2:] in ((), (1, 1))
        if not is_shape or (channels and shape[1] not in (1, *channels)):
            counts = listed(dict.fromkeys((1, *channels)), " or ") if channels else "that of the other input"
            yield (
                f"a constant of the shape {shape}, expected {_CHANNELS.get(rank, _EITHER)} with C = {counts}",
                "use one value per channel",
            )


def _exponent(node: onnx.NodeProto, graph: OnnxGraph, limit: str) -> Iterator[Broken]:
    if node.input[1] not in graph.constants:
        yield "its exponent is computed, expected a constant", "use a fixed exponent, or Exp and Log"


def _axes(node: onnx.NodeProto, graph: OnnxGraph, limit: Sequence[int]) -> Iterator[Broken]:
    axes = _axes_of(node, graph)
    if axes is not None and not set(axes) <= set(limit):
        word = f"axis {axes[0]}" if len(axes) == 1 else f"axes {listed(axes)}"
        yield f"{word}, allowed are {listed(limit)}", "run it along channels or space, or on the host"


def _exact_axes(node: onnx.NodeProto, graph: OnnxGraph, limit: Sequence[int]) -> Iterator[Broken]:
    axes = _axes_of(node, graph)
    if axes is not None and sorted(axes) != sorted(limit):
        yield f"axes {listed(axes)}, expected {listed(limit)} together", "keep four axes, and reshape on the host"


def _max_axes(node: onnx.NodeProto, graph: OnnxGraph, limit: int) -> Iterator[Broken]:
    axes = _axes_of(node, graph)
    if axes is not None and len(axes) > limit:
        yield f"{len(axes)} axes at once, at most {limit}", "use one operator per axis"


def _max_channels(node: onnx.NodeProto, graph: OnnxGraph, limit: int) -> Iterator[Broken]:
    axes, shape = _axes_of(node, graph), graph.static_shape(node.input[0])
    if axes and shape is not None and shape[axes[0]] > limit:
        yield f"{shape[axes[0]]} channels, at most {limit}", "take it on the host"


def _multiple(node: onnx.NodeProto, graph: OnnxGraph, limit: int) -> Iterator[Broken]:
    if node.op_type == "Split":
        axis, parts = attributes(node).get("axis", 0), [graph.static_shape(name) for name in node.output[:-1]]
        if None not in parts:
            cuts = list(accumulate(part[axis] for part in parts if part is not None))
            if any(cut % limit for cut in cuts):
                yield f"cuts at {listed(cuts)} of axis {axis}, expected multiples of {limit}", _OWN_CONVOLUTIONS
        return
    for axis, size, bounds in _bounds(node, graph):
        low, high, step = slice(*bounds).indices(size)
        if step < 0:
            low, high = high + 1, low + 1
        if any(bound % limit and bound != size for bound in (low, high)):
            yield f"from {low} to {high} of axis {axis}, expected multiples of {limit}", _OWN_CONVOLUTIONS


def _steps(node: onnx.NodeProto, graph: OnnxGraph, limit: str) -> Iterator[Broken]:
    for axis, _, (_, _, step) in _bounds(node, graph):
        if step < 0:
            yield f"a step of {step} along axis {axis}, expected a positive one", "reverse it on the host"


def _modes(node: onnx.NodeProto, graph: OnnxGraph, limit: Sequence[str]) -> Iterator[Broken]:
    mode = attributes(node).get("mode", b"constant" if node.op_type == "Pad" else b"nearest").decode()
    if mode not in limit:
        yield f"the mode {mode}, allowed are {listed(limit)}", f"use {limit[0]}"


def _pads(node: onnx.NodeProto, graph: OnnxGraph, limit: str) -> Iterator[Broken]:
    pads, rank = _setting(node, graph, "pads", 1), _rank(graph, node.input[0])
    if pads is None:
        return
    axes = _setting(node, graph, "axes", 3) or list(range(rank))
    if {axes[position % len(axes)] % rank for position, pad in enumerate(pads) if pad} <= {1}:
        return
    readers = graph.readers(node.output[0])
    wrong = [each for each in readers if each.op_type not in _WINDOWS or _pads_itself(each)]
    if wrong or graph.is_output(node.output[0]):
        found = "an output"
        if wrong:
            found = wrong[0].op_type + " with padding of its own" * (wrong[0].op_type in _WINDOWS)
        yield (
            f"it pads more than channels in front of {found}, expected windows without padding of their own",
            "let the convolution or pooling behind it pad with zeros",
        )


def _factors(node: onnx.NodeProto, graph: OnnxGraph, limit: str) -> Iterator[Broken]:
    before, after = graph.static_shape(node.input[0]), graph.static_shape(node.output[0])
    if before is None or after is None:
        return
    factors = [large / small for small, large in zip(before, after, strict=True)]
    if not all(factor.is_integer() and _is_power_of_two(int(factor)) for factor in factors):
        yield (
            f"factors of {listed(factors)}, expected powers of two",
            "choose an image size that is a multiple of the network's stride",
        )


def _to(node: onnx.NodeProto, graph: OnnxGraph, limit: Sequence[str]) -> Iterator[Broken]:
    kind = str(onnx.helper.tensor_dtype_to_np_dtype(attributes(node)["to"]))
    if kind not in limit:
        yield f"casts to {kind}, allowed are {listed(limit)}", "keep one type, or cast on the host"


_RULES: dict[str, Callable[[onnx.NodeProto, OnnxGraph, Any], Iterator[Broken]]] = {
    "max_window": _max_window,
    "max_dilation": _max_dilation,
    "strides": _strides,
    "p": _norm,
    "operands": _operands,
    "exponent": _exponent,
    "axes": _axes,
    "exact_axes": _exact_axes,
    "max_axes": _max_axes,
    "max_channels": _max_channels,
    "multiple": _multiple,
    "steps": _steps,
    "modes": _modes,
    "pads": _pads,
    "factors": _factors,
    "to": _to,
}
"""The rule of each field of OperatorLimits, which is called where the field is given."""


def _axes_of(node: onnx.NodeProto, graph: OnnxGraph) -> list[int] | None:
    """Axes that a node runs along, counted from the front; None if they are unknown."""
    rank = _rank(graph, node.output[0] if node.op_type in ("Concat", "Unsqueeze") else node.input[0])
    if node.op_type == "Slice":
        starts, axes = _setting(node, graph, "starts", 1), _setting(node, graph, "axes", 3)
        if axes is not None:
            return [int(each) % rank for each in axes]
        is_given = len(node.input) > 3 and bool(node.input[3])
        return None if starts is None or is_given else list(range(len(starts)))
    if node.op_type in ("Squeeze", "Unsqueeze") or node.op_type.startswith("Reduce"):
        axes = _setting(node, graph, "axes", 1)
        if axes is not None and len(axes):
            return [int(each) % rank for each in axes]
        if len(node.input) > 1 and node.input[1] and axes is None:
            return None  # computed at run time
        if node.op_type == "Squeeze":
            shape = graph.static_shape(node.input[0])
            return None if shape is None else [axis for axis, size in enumerate(shape) if size == 1]
        return list(range(rank))
    default = -1 if node.op_type.endswith("oftmax") and graph.opset >= 13 else int("oftmax" in node.op_type)
    return [attributes(node).get("axis", default) % rank]


def _bounds(node: onnx.NodeProto, graph: OnnxGraph) -> Iterator[tuple[int, int, list[int]]]:
    """Axis, its size, and start, end and step of a Slice; nothing if they are unknown."""
    shape, axes = graph.static_shape(node.input[0]), _axes_of(node, graph)
    starts, ends = (_setting(node, graph, key, position) for key, position in (("starts", 1), ("ends", 2)))
    steps = _setting(node, graph, "steps", 4)
    computed = steps is None and len(node.input) > 4 and bool(node.input[4])
    if shape is None or axes is None or starts is None or ends is None or computed:
        return
    for axis, *bounds in zip(axes, starts, ends, [1] * len(axes) if steps is None else steps, strict=True):
        yield axis, shape[axis], [int(each) for each in bounds]


def _setting(node: onnx.NodeProto, graph: OnnxGraph, key: str, position: int) -> Sequence[int] | None:
    """A setting that is an attribute in old opsets and a constant input in new ones; None if neither is known."""
    name = node.input[position] if len(node.input) > position else ""
    value = graph.constants.get(name) if name else None
    return [int(each) for each in np.ravel(value)] if value is not None else attributes(node).get(key)


def _pads_itself(node: onnx.NodeProto) -> bool:
    values = attributes(node)
    return any(values.get("pads", ())) or values.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")


def _rank(graph: OnnxGraph, name: str) -> int:
    return len(graph.shape(name) or ()) or 4  # assume images if the shape is unknown


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0
