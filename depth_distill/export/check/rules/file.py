"""Rules on the whole file: opset, inputs and outputs, operators of other domains, shapes, sizes of feature maps."""

from collections.abc import Iterator

import onnx

from depth_distill.export.check.rules.finding import Finding, Findings
from depth_distill.export.onnx_io.onnx_graph import QDQ_OPERATORS, OnnxGraph, attributes, is_of_onnx
from depth_distill.export.onnx_io.opsets.changes import OLDEST

_CONTROL_FLOW = ("If", "Loop", "Scan")
_PAIR = "Q/DQ"


def check_file(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    """Apply every rule on the whole file."""
    yield from _opset(graph, findings)
    yield from _inputs_and_outputs(graph, findings)
    yield from _other_domains(graph, findings)
    yield from _control_flow(graph, findings)
    yield from _unknown_shapes(graph, findings)
    yield from _alignment(graph, findings)


def _opset(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    newest = findings.target.operators.max_opset
    if newest is not None and graph.opset > newest:
        yield findings.violation(
            "the file", "operators.max_opset", f"opset {graph.opset}, at most {newest}",
            f"export it with --max-opset {newest}" if newest >= OLDEST
            else f"this package writes {OLDEST} or newer: try onnx.version_converter",
        )  # fmt: skip


def _inputs_and_outputs(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    if len(graph.outputs) > 1:
        yield from findings.capability(
            "several_outputs",
            "the file",
            f"{len(graph.outputs)} outputs",
            "export with --no-separate-outputs, or use a codec of one code",
        )
    for name in graph.inputs:
        if graph.static_shape(name) is None:
            yield findings.violation(
                f"{name} (input)", "static shapes", f"its shape is {graph.shape(name)}",
                "export with a static batch of 1 and a fixed image size",
            )  # fmt: skip


def _other_domains(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    """Violations, but only warnings for Q/DQ nodes: their meaning is clear, and most readers of QDQ files know them."""
    known = findings.target.operators.domains
    found: dict[tuple[str, str], list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        if not is_of_onnx(node) and node.domain not in known:
            found.setdefault((node.domain, _PAIR if node.op_type in QDQ_OPERATORS else node.op_type), []).append(node)
    for (domain, operation), nodes in found.items():
        listing = f"list {domain} in operators.domains if the tool chain reads it"
        if operation == _PAIR:
            yield findings.warning(
                nodes, "operators.domains", f"{len(nodes)} {_PAIR} nodes of {domain}, which not every tool chain reads",
                f"write ONNX's own, which have 16 bits from opset 21 on, or {listing}",
            )  # fmt: skip
        else:
            yield findings.violation(
                nodes, "operators.domains", f"{len(nodes)} operators of {domain}, only ONNX's own are supported",
                f"use the file as exported, before a runtime optimized or fused it, or {listing}",
            )  # fmt: skip


def _control_flow(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    # An operator that the target does not take has its own finding.
    kinds = {each for each in _CONTROL_FLOW if findings.target.operators.takes(each)}
    for node in graph.operators():
        if node.op_type in kinds and is_of_onnx(node):
            bodies = [value for value in attributes(node).values() if isinstance(value, onnx.GraphProto)]
            yield findings.violation(
                [node], "control flow",
                f"branches at run time; {sum(len(body.node) for body in bodies)} nodes inside were not checked",
                "export for one fixed path (no branch or loop that depends on data), or do this step on the host",
            )  # fmt: skip


def _unknown_shapes(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    unknown = [
        node for node in graph.operators() if any(graph.static_shape(name) is None for name in node.output if name)
    ]
    if unknown:
        fixed = all(graph.static_shape(name) is not None for name in graph.inputs)
        yield findings.warning(
            unknown, "static shapes", "the shape is unknown: rules that need it were not checked",
            "export it without shapes that depend on data" if fixed else "fix the shape of the input, and check again",
        )  # fmt: skip


def _alignment(graph: OnnxGraph, findings: Findings) -> Iterator[Finding]:
    """One warning per size, as a network has dozens of layers of each."""
    alignment = findings.target.alignment
    by_size: dict[tuple[int, ...], list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        shape = graph.static_shape(node.output[0])
        is_map = shape is not None and len(shape) == 4 and shape[2:] != (1, 1)  # globally pooled maps have a fixed size
        if node.op_type in ("Conv", "ConvTranspose") and shape is not None and is_map:
            by_size.setdefault(shape[2:], []).append(node)
    for (height, width), nodes in by_size.items():
        if height % alignment or width % alignment:
            yield findings.warning(
                nodes, "alignment", f"a map of {height} x {width} (H x W), should be multiples of {alignment}",
                "choose an image size that stays a multiple at every stride, or accept idle lanes",
            )  # fmt: skip
