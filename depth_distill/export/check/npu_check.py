"""Check whether an NPU's tool chain accepts a file: every operator and shape against the target's profile."""

from dataclasses import dataclass
from pathlib import Path

import onnx
from rich.table import Table
from rich.text import Text

from depth_distill.errors import ConfigError, first_line
from depth_distill.export.check.rules.activations import check_activations
from depth_distill.export.check.rules.file import check_file
from depth_distill.export.check.rules.finding import Finding, Findings
from depth_distill.export.check.rules.formats import check_formats
from depth_distill.export.check.rules.operators import check_operator
from depth_distill.export.check.ways_out import recipe_line, way_out
from depth_distill.export.onnx_io.onnx_graph import OnnxGraph, is_of_onnx
from depth_distill.loading.onnx_importer.files import read_onnx
from depth_distill.quantization.target.target import NpuTarget


@dataclass(frozen=True)
class OpCheck:
    """Result of checking a file: its findings, and the number of operators checked."""

    findings: tuple[Finding, ...]
    operators: int

    @property
    def ok(self) -> bool:
        """Whether there is no violation."""
        return not any(each.severity == "violation" for each in self.findings)

    def table(self, title: str) -> Table:
        """One row per finding."""
        table = Table(title=title)
        for heading in ("severity", "node", "rule", "found", "remedy"):
            table.add_column(heading)
        for each in self.findings:
            cells = (each.severity, each.place, each.rule, each.message, each.remedy)
            table.add_row(*map(Text, cells))  # node names may contain brackets, which rich would parse as markup
        violations = sum(each.severity == "violation" for each in self.findings)
        table.caption = (
            f"{self.operators} operators, {violations} violations, {len(self.findings) - violations} warnings"
        )
        return table

    @property
    def recipe_line(self) -> str:
        """Which recipe repairs how many of the violations; empty if there is none that one could repair."""
        violations = [each for each in self.findings if each.severity == "violation"]
        passes = [each.pass_ for each in violations if each.pass_]
        return recipe_line(passes, len(violations)) if passes else ""


def check_onnx(model: Path | onnx.ModelProto, target: NpuTarget) -> OpCheck:
    """Check every operator of a file; Q/DQ pairs are treated as formats of tensors, not as operators.

    Args:
        model: an ONNX file with static shapes.
        target: the profile.

    Raises:
        ConfigError: the file does not exist or is not a valid ONNX model.
    """
    if isinstance(model, Path):
        path, model = model, read_onnx(model)
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise ConfigError(f"{path} is not a valid ONNX model: {first_line(error)}") from error
    graph = OnnxGraph(model)
    findings = Findings(target, lambda node, rule: way_out(node, rule, graph))
    operators = list(graph.operators())
    found = [
        *check_file(graph, findings),
        *check_formats(graph, findings),
        *(each for node in operators if is_of_onnx(node) for each in check_operator(node, graph, findings)),
        *check_activations(graph, findings),
    ]
    return OpCheck(tuple(found), len(operators))
