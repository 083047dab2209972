"""Rules on single operators and their attributes."""

from collections.abc import Callable, Iterator
from itertools import accumulate

import numpy as np
import onnx

from depth_distill.export.check.rules.finding import Finding, Findings, listed
from depth_distill.export.onnx_io.onnx_graph import OnnxGraph, attributes

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")
_OWN_CONVOLUTIONS = "give each part its own convolution (--separate-outputs)"


def check_operator(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    """Apply every rule on the operator of a node, which must be one of ONNX's own."""
    if node.op_type in findings.target.operators.forbidden:
        yield findings.violation(
            [node], "operators.forbidden", f"{node.op_type} is not supported",
            "build the network without it, or do this step on the host",
        )  # fmt: skip
    if node.op_type in _RULES:
        yield from _RULES[node.op_type](node, graph, findings)


def _conv(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    operators = findings.target.operators
    transposed = node.op_type == "ConvTranspose"
    key, rules = ("transposed_conv", operators.transposed_conv) if transposed else ("conv", operators.conv)
    values = attributes(node)
    window = values.get("kernel_shape") or (graph.static_shape(node.input[1]) or ())[2:]
    dilations = values.get("dilations") or [1]
    strides = values.get("strides") or [1]
    if rules.max_window is not None and max(window, default=0) > rules.max_window:
        yield findings.violation(
            [node], f"operators.{key}.max_window", f"a window of {listed(window, ' x ')}, at most {rules.max_window}",
            "use several smaller windows in a row",
        )  # fmt: skip
    if rules.max_dilation is not None and max(dilations) > rules.max_dilation:
        yield findings.violation(
            [node], f"operators.{key}.max_dilation", f"a dilation of {max(dilations)}, at most {rules.max_dilation}",
            "use a stride, or smaller dilations in a row",
        )  # fmt: skip
    if rules.strides == "powers_of_two" and not all(_is_power_of_two(each) for each in strides):
        yield findings.violation(
            [node], f"operators.{key}.strides", f"strides of {listed(strides)}, expected powers of two",
            "use strides of 1, 2 or 4",
        )  # fmt: skip


def _resize(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    before, after = graph.static_shape(node.input[0]), graph.static_shape(node.output[0])
    if findings.target.operators.upsample.factors == "any" or before is None or after is None:
        return
    factors = [large / small for small, large in zip(before, after, strict=True)]
    if not all(factor.is_integer() and _is_power_of_two(int(factor)) for factor in factors):
        yield findings.violation(
            [node], "operators.upsample.factors", f"factors of {listed(factors)}, expected powers of two",
            "choose an image size that is a multiple of the network's stride",
        )  # fmt: skip


def _slice(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    multiple, shape = findings.target.operators.slice_multiple, graph.static_shape(node.input[0])
    values = attributes(node)  # bounds are attributes before opset 10
    for name, key in zip(node.input[1:], ("starts", "ends", "axes", "steps"), strict=False):
        if name:
            values[key] = graph.constants.get(name)
    if multiple == 1 or shape is None or values["starts"] is None or values["ends"] is None:
        return
    count = len(values["starts"])
    axes, steps = values.get("axes", range(count)), values.get("steps", [1] * count)
    if axes is None or steps is None:
        return
    for axis, *bounds in zip(axes, values["starts"], values["ends"], steps, strict=True):
        low, high, step = slice(*map(int, bounds)).indices(shape[axis])
        if step < 0:
            low, high = high + 1, low + 1
        if any(bound % multiple and bound != shape[axis] for bound in (low, high)):
            yield findings.violation(
                [node], "operators.slice_multiple",
                f"from {low} to {high} of axis {axis}, expected multiples of {multiple}", _OWN_CONVOLUTIONS,
            )  # fmt: skip


def _split(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    multiple, axis = findings.target.operators.slice_multiple, attributes(node).get("axis", 0)
    parts = [graph.static_shape(name) for name in node.output[:-1]]
    if None in parts:
        return
    cuts = list(accumulate(part[axis] for part in parts if part is not None))
    if any(cut % multiple for cut in cuts):
        yield findings.violation(
            [node], "operators.slice_multiple",
            f"cuts at {listed(cuts)} of axis {axis}, expected multiples of {multiple}", _OWN_CONVOLUTIONS,
        )  # fmt: skip


def _concat(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    axes = findings.target.operators.concat_axes
    axis = attributes(node).get("axis", 1) % _rank(graph, node.output[0])
    if axes is not None and axis not in axes:
        yield findings.violation(
            [node], "operators.concat_axes", f"axis {axis}, allowed are {listed(axes)}", "concatenate channels or space"
        )


def _arg_max(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    rules, shape = findings.target.operators.argmax, graph.static_shape(node.input[0])
    axis = attributes(node).get("axis", 0) % _rank(graph, node.input[0])
    if rules is None:
        return
    if axis not in rules.axes:
        yield findings.violation(
            [node], "operators.argmax.axes", f"axis {axis}, allowed are {listed(rules.axes)}",
            "take it over channels, or on the host",
        )  # fmt: skip
    elif shape is not None and shape[axis] > rules.max_channels:
        yield findings.violation(
            [node], "operators.argmax.max_channels", f"{shape[axis]} channels, at most {rules.max_channels}",
            "take it on the host",
        )  # fmt: skip


def _cast(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    kinds = findings.target.operators.cast_to
    kind = str(onnx.helper.tensor_dtype_to_np_dtype(attributes(node)["to"]))
    if kinds is not None and kind not in kinds:
        yield findings.violation(
            [node], "operators.cast_to", f"casts to {kind}, allowed are {listed(kinds)}",
            "keep one type, or cast on the host",
        )  # fmt: skip


def _elementwise(node: onnx.NodeProto, graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    if findings.target.operators.elementwise_constant == "any":
        return
    for name in node.input:
        value = graph.constants.get(name)
        if value is None or value.size == 1:
            continue
        if value.ndim not in (3, 4) or any(side != 1 for side in np.delete(value.shape, value.ndim - 3)):
            yield findings.violation(
                [node], "operators.elementwise_constant",
                f"a constant of the shape {value.shape}, expected (1, C, 1, 1)", "use one value per channel",
            )  # fmt: skip


_RULES: dict[str, Callable[[onnx.NodeProto, OnnxGraph, Findings], Iterator[Finding]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Resize": _resize,
    "Upsample": _resize,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "ArgMax": _arg_max,
    "ArgMin": _arg_max,
    "Cast": _cast,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
}


def _rank(graph: OnnxGraph, name: str) -> int:
    return len(graph.shape(name) or ()) or 4  # assume images if the shape is unknown


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0
