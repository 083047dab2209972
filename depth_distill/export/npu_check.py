"""Whether an NPU's tool chain takes a file: every operator and shape against the target's profile."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from rich.table import Table

from depth_distill.errors import ConfigError
from depth_distill.export.layers import load
from depth_distill.export.onnx_graph import ACTIVATION_OPS, OnnxGraph, attributes, label
from depth_distill.quantization.target import NpuTarget

Severity = Literal["violation", "warning"]

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")


@dataclass(frozen=True)
class Finding:
    """Something that the target does not take, or takes badly.

    Attributes:
        severity: ``violation``: the tool chain will refuse it; ``warning``: it costs something, or nobody knows.
        node: name of the node.
        op: its ONNX operator.
        rule: key of the profile, with file and line where it came from one.
        message: what was found, and what is allowed.
        remedy: a way out.
    """

    severity: Severity
    node: str
    op: str
    rule: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node} ({self.op}): {self.message} [{self.rule}]; {self.remedy}"


@dataclass(frozen=True)
class OpCheck:
    """The result of a check; ``ok`` if there is no violation."""

    findings: tuple[Finding, ...]
    operators: int

    @property
    def ok(self) -> bool:
        """Whether nothing is refused."""
        return not any(each.severity == "violation" for each in self.findings)

    def table(self, title: str) -> Table:
        """One row a finding."""
        table = Table(title=title)
        for heading in ("severity", "node", "rule", "found", "way out"):
            table.add_column(heading)
        for each in self.findings:
            table.add_row(each.severity, f"{each.node} ({each.op})", each.rule, each.message, each.remedy)
        violations = sum(each.severity == "violation" for each in self.findings)
        table.caption = (
            f"{self.operators} operators, {violations} violations, {len(self.findings) - violations} warnings"
        )
        return table


def check_onnx(model: Path | onnx.ModelProto, target: NpuTarget) -> OpCheck:
    """Check every operator of a file; Q/DQ pairs are read as what they round, not as operators.

    Args:
        model: an ONNX file with static shapes.
        target: the profile.

    Raises:
        ConfigError: no such file, or no valid ONNX model.
    """
    if isinstance(model, Path):
        path, model = model, load(model)
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise ConfigError(f"{path} is no valid ONNX model: {error}") from error
    graph = OnnxGraph(model)
    search = _Search(graph, target)
    operators = list(graph.operators())
    findings = [*search.of_file(), *(each for node in operators for each in search.of_node(node))]
    return OpCheck(tuple(findings), len(operators))


class _Search:
    def __init__(self, graph: OnnxGraph, target: NpuTarget) -> None:
        self.graph = graph
        self.target = target
        self.rules = target.operators

    def of_file(self) -> Iterator[Finding]:
        can = self.target.capabilities
        if len(self.graph.outputs) > 1 and can.several_outputs != "yes":
            yield self._capability("several_outputs", "the file", "", f"{len(self.graph.outputs)} outputs")
        for name in self.graph.inputs:
            if self.graph.static_shape(name) is None:
                yield Finding(
                    "violation", name, "input", "static shapes", f"its shape is {self.graph.shape(name)}",
                    "export with a static batch of 1 and a fixed image size",
                )  # fmt: skip
        rounded = [node for node in self.graph.nodes if node.op_type == "QuantizeLinear"]
        if rounded and self.target.scales == "vendor":
            yield Finding(
                "warning", "the file", "", self._rule("scales"),
                f"{len(rounded)} QuantizeLinear nodes, but this tool chain quantizes by itself",
                "give it model.float.onnx and the calibration images",
            )  # fmt: skip
        kinds = {"per_channel_weights": False, "asymmetric_activations": False}
        for node in self.graph.nodes:
            if node.op_type == "DequantizeLinear":
                scale = self.graph.constants.get(node.input[1])
                kinds["per_channel_weights"] |= scale is not None and scale.size > 1
            if node.op_type == "QuantizeLinear" and len(node.input) > 2:
                zero_point = self.graph.constants.get(node.input[2])
                kinds["asymmetric_activations"] |= zero_point is not None and self.graph.dtype(node.input[2]) == "uint8"
        for name, found in kinds.items():
            if found and getattr(can, name) != "yes":
                yield self._capability(name, "the file", "QuantizeLinear", name.replace("_", " "))
        yield from self._alignment()

    def of_node(self, node: onnx.NodeProto) -> Iterator[Finding]:
        operation, rules = node.op_type, self.rules
        values = attributes(node)
        if operation in rules.forbidden:
            yield self._violation(
                node, "operators.forbidden", f"{operation} is not supported",
                "build the network without it, or do this step on the host",
            )  # fmt: skip
        in_half = any(self.graph.dtype(name) == "float16" for name in (*node.input, *node.output) if name)
        if in_half and operation != "Cast" and self.target.capabilities.fp16 != "yes":
            yield self._capability("fp16", label(node), operation, "computes in FP16")
        if operation in ("Conv", "ConvTranspose"):
            yield from self._conv(node, values)
        if operation in ("Resize", "Upsample"):
            yield from self._resize(node)
        if operation == "Slice":
            yield from self._slice(node)
        axes = rules.concat_axes
        if operation == "Concat" and axes is not None:
            rank = len(self.graph.shape(node.output[0]) or ()) or 4
            axis = values["axis"] % rank
            if axis not in axes:
                yield self._violation(
                    node, "operators.concat_axes", f"axis {axis}, allowed are {_listed(axes)}",
                    "concatenate channels or space",
                )  # fmt: skip
        if operation == "ArgMax" and rules.argmax is not None:
            axis = values.get("axis", 0)
            shape = self.graph.static_shape(node.input[0])
            if axis not in rules.argmax.axes:
                yield self._violation(
                    node, "operators.argmax.axes", f"axis {axis}, allowed are {_listed(rules.argmax.axes)}",
                    "take it over channels, or on the host",
                )  # fmt: skip
            elif shape is not None and shape[axis] > rules.argmax.max_channels:
                yield self._violation(
                    node, "operators.argmax.max_channels",
                    f"{shape[axis]} channels, at most {rules.argmax.max_channels}", "take it on the host",
                )  # fmt: skip
        if operation == "Cast" and rules.cast_to is not None:
            kind = str(onnx.helper.tensor_dtype_to_np_dtype(values["to"]))
            if kind not in rules.cast_to:
                yield self._violation(
                    node, "operators.cast_to", f"casts to {kind}, allowed is {_listed(rules.cast_to)}",
                    "keep one type, or cast on the host",
                )  # fmt: skip
        if operation in _ELEMENTWISE and rules.elementwise_constant == "per_channel":
            yield from self._elementwise(node)
        yield from self._activation(node)

    def _conv(self, node: onnx.NodeProto, values: dict[str, object]) -> Iterator[Finding]:
        transposed = node.op_type == "ConvTranspose"
        key = "transposed_conv" if transposed else "conv"
        rules = self.rules.transposed_conv if transposed else self.rules.conv
        weight = self.graph.shape(node.input[1]) or ()
        window: list[int] = list(values.get("kernel_shape") or weight[2:])  # type: ignore[call-overload]
        dilations: list[int] = list(values.get("dilations") or [1])  # type: ignore[call-overload]
        strides: list[int] = list(values.get("strides") or [1])  # type: ignore[call-overload]
        if rules.max_window is not None and max(window) > rules.max_window:
            yield self._violation(
                node, f"operators.{key}.max_window",
                f"a window of {_listed(window, ' x ')}, at most {rules.max_window}",
                "use several smaller ones in a row",
            )  # fmt: skip
        if rules.max_dilation is not None and max(dilations) > rules.max_dilation:
            yield self._violation(
                node, f"operators.{key}.max_dilation", f"a dilation of {max(dilations)}, at most {rules.max_dilation}",
                "use a stride, or smaller dilations in a row",
            )  # fmt: skip
        if rules.strides == "powers_of_two" and not all(_is_power_of_two(each) for each in strides):
            yield self._violation(
                node, f"operators.{key}.strides", f"strides of {_listed(strides)}, expected powers of two",
                "use strides of 1, 2 or 4",
            )  # fmt: skip

    def _resize(self, node: onnx.NodeProto) -> Iterator[Finding]:
        before, after = self.graph.static_shape(node.input[0]), self.graph.static_shape(node.output[0])
        if self.rules.upsample.factors == "any" or before is None or after is None:
            return
        factors = [large / small for small, large in zip(before, after, strict=True)]
        if not all(factor.is_integer() and _is_power_of_two(int(factor)) for factor in factors):
            yield self._violation(
                node, "operators.upsample.factors", f"factors of {_listed(factors)}, expected powers of two",
                "choose an image size that is a multiple of the network's stride",
            )  # fmt: skip

    def _slice(self, node: onnx.NodeProto) -> Iterator[Finding]:
        multiple = self.rules.slice_multiple
        shape = self.graph.static_shape(node.input[0])
        constants = self.graph.constants
        if multiple == 1 or shape is None or not all(name in constants for name in node.input[1:3]):
            return
        starts, ends = (constants[name].tolist() for name in node.input[1:3])
        axes = constants[node.input[3]].tolist() if len(node.input) > 3 else list(range(len(starts)))
        for start, end, axis in zip(starts, ends, axes, strict=True):
            bounds = (max(0, start + shape[axis] * (start < 0)), min(end + shape[axis] * (end < 0), shape[axis]))
            if any(bound % multiple and bound != shape[axis] for bound in bounds):
                yield self._violation(
                    node, "operators.slice_multiple",
                    f"from {bounds[0]} to {bounds[1]}, expected multiples of {multiple}",
                    "give each part a convolution of its own (--separate-outputs)",
                )  # fmt: skip

    def _elementwise(self, node: onnx.NodeProto) -> Iterator[Finding]:
        for name in node.input:
            value = self.graph.constants.get(name)
            if value is None or value.size == 1:
                continue
            if value.ndim not in (3, 4) or any(side != 1 for side in np.delete(value.shape, value.ndim - 3)):
                yield self._violation(
                    node, "operators.elementwise_constant",
                    f"a constant of the shape {value.shape}, expected (1, C, 1, 1)", "use one value a channel",
                )  # fmt: skip

    def _activation(self, node: onnx.NodeProto) -> Iterator[Finding]:
        name = ACTIVATION_OPS.get(node.op_type)
        if name is not None and name not in self.target.fused_activations:
            yield Finding(
                "warning", label(node), node.op_type, self._rule("fused_activations"),
                f"{name} is not fused: what it reads is rounded as well", "use one that the target fuses",
            )  # fmt: skip

    def _alignment(self) -> Iterator[Finding]:
        """One warning a size: a network has dozens of layers of each."""
        alignment = self.target.alignment
        by_size: dict[tuple[int, ...], list[onnx.NodeProto]] = {}
        for node in self.graph.nodes:
            shape = self.graph.static_shape(node.output[0])
            if node.op_type in ("Conv", "ConvTranspose") and shape is not None and len(shape) == 4:
                by_size.setdefault(shape[2:], []).append(node)
        for (height, width), nodes in by_size.items():
            if height % alignment or width % alignment:
                others = f" and {len(nodes) - 1} more" * (len(nodes) > 1)
                yield Finding(
                    "warning", label(nodes[0]) + others, nodes[0].op_type, self._rule("alignment"),
                    f"a map of {height} x {width} (H x W), best are multiples of {alignment}",
                    "choose an image size that stays a multiple at every stride, or accept idle lanes",
                )  # fmt: skip

    def _violation(self, node: onnx.NodeProto, rule: str, message: str, remedy: str) -> Finding:
        return Finding("violation", label(node), node.op_type, self._rule(rule), message, remedy)

    def _capability(self, name: str, node: str, operation: str, found: str) -> Finding:
        support = getattr(self.target.capabilities, name)
        severity: Severity = "violation" if support == "no" else "warning"
        remedy = "use another file of the bundle" if support == "no" else "try it on the chip before you rely on it"
        return Finding(severity, node, operation, self._rule(f"capabilities.{name}"), f"{found}: {support}", remedy)

    def _rule(self, key: str) -> str:
        if self.target.source is None:
            return key
        place = self.target.line_of(key).split(": ")[0].rpartition("/")[2]
        return f"{key}, {place}"


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _listed(values: object, between: str = ", ") -> str:
    return between.join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)  # type: ignore[attr-defined]
