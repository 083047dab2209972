"""Rules on number formats: codes, zero points, half precision, and precision per layer."""

from collections.abc import Iterator

import numpy as np
import onnx

from depth_distill.export.check.rules.finding import Finding, Findings
from depth_distill.export.onnx_io.onnx_graph import QDQ_OPERATORS, OnnxGraph

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_CENTRES = {"uint8": 128, "uint16": 32768}  # of the codes; 0 for signed ones
_BIASES = "int32"


def check_formats(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    """Apply every rule on formats; each has at most one finding per file and format."""
    yield from _source_of_scales(graph, findings)
    yield from _codes(graph, findings)
    yield from _half(graph, findings)
    yield from _scales(graph, findings)
    yield from _zero_points(graph, findings)


def _source_of_scales(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    rounded = [node for node in graph.nodes if node.op_type == "QuantizeLinear"]
    if rounded and findings.target.scales == "vendor":
        yield findings.warning(
            "the file", "scales", f"{len(rounded)} QuantizeLinear nodes, but this tool chain quantizes by itself",
            "use model.float.onnx and the calibration images",
        )  # fmt: skip


def _codes(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    by_type: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        if node.op_type in QDQ_OPERATORS and _code_type(graph, node) != _BIASES:
            by_type.setdefault(_code_type(graph, node).removeprefix("u"), []).append(node)
    instead = {
        "int8": "use model.fp16.onnx or model.float.onnx",
        "int16": "quantize these tensors to 8 bits, or keep their layers in FP16",
    }
    for kind, nodes in by_type.items():
        found = f"{len(nodes)} Q/DQ nodes with {kind} codes"
        if kind in instead:
            yield from findings.capability(kind, nodes, found, instead[kind])
        else:
            yield findings.warning(nodes, "capabilities", f"{found}, which profiles do not cover", "use int8 or int16")


def _half(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    integer = list(_in_integers(graph))
    outputs = {node.output[0] for node in integer}
    half = [
        node
        for node in graph.operators()
        if node.op_type != "Cast" and node.output[0] not in outputs
        if any(graph.dtype(name) == "float16" for name in (*node.input, *node.output) if name)
    ]
    if half:
        yield from findings.capability(
            "fp16", half, f"{len(half)} operators compute in FP16", "use model.int8.onnx or model.float.onnx"
        )
    if half and integer:
        yield from findings.capability(
            "per_layer_precision", half, f"{len(half)} operators in FP16, {len(integer)} in integers",
            "use one precision: model.int8.onnx or model.fp16.onnx",
        )  # fmt: skip


def _in_integers(graph: OnnxGraph) -> Iterator[onnx.NodeProto]:
    """Operators that read dequantized tensors, and those after them until the result is quantized.

    The float type of a dequantized tensor is irrelevant, as no NPU computes with it.
    """
    dequantized = {node.output[0] for node in graph.nodes if node.op_type == "DequantizeLinear"}
    for node in graph.operators():
        variable = [name for name in node.input if name and name not in graph.constants]
        operands = node.input[:2] if node.op_type in _LAYERS else variable
        if operands and node.op_type != "Cast" and dequantized.issuperset(operands):
            dequantized.update(node.output)
            yield node


def _scales(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    several = [
        node
        for node in graph.nodes
        if node.op_type == "DequantizeLinear"
        if graph.constants.get(node.input[1], np.empty(0)).size > 1
    ]
    if several:
        yield from findings.capability(
            "per_channel_weights", several, f"{len(several)} tensors with one scale per channel",
            "export with one scale per tensor (weights.granularity: per_tensor)",
        )  # fmt: skip


def _zero_points(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    """A tensor is symmetric if its zero point is in the middle of its codes, for any type."""
    asymmetric: dict[str, tuple[onnx.NodeProto, str]] = {}
    for node in graph.nodes:
        if node.op_type not in QDQ_OPERATORS or node.input[0] in graph.constants:
            continue
        kind = _code_type(graph, node)
        name = node.input[2] if len(node.input) > 2 else ""
        zero_point = graph.constants.get(name, None if name else np.array(0))
        if zero_point is None or (zero_point != _CENTRES.get(kind, 0)).any():
            value = "is computed" if zero_point is None else f"is {zero_point.flat[0]}"
            asymmetric.setdefault(_code_tensor(node), (node, f"{kind} zero point {value}"))
    if asymmetric:
        nodes, reasons = zip(*asymmetric.values(), strict=True)
        yield from findings.capability(
            "asymmetric_activations", nodes, f"{len(nodes)} asymmetric activations (first: {reasons[0]})",
            "export for a target with symmetric activations (int8, zero point 0)",
        )  # fmt: skip


def _code_tensor(node: onnx.NodeProto) -> str:
    return node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]


def _code_type(graph: OnnxGraph, node: onnx.NodeProto) -> str:
    """Type of a Q/DQ node's codes: from shape inference, else that of the zero point, else ONNX's default, uint8."""
    zero_point = graph.dtype(node.input[2]) if len(node.input) > 2 else None
    return graph.dtype(_code_tensor(node)) or zero_point or "uint8"
