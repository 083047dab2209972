"""Capabilities of a target: as its profile has them, and as a tool chain shows them when it is probed."""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from depth_distill.atomic import write_json
from depth_distill.display.console import plain_console
from depth_distill.export.backends.backends import find_backend
from depth_distill.export.bundle.network import with_outputs
from depth_distill.export.onnx_io.file_spec import FileSpec, opset_for
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.probe.models import capability_probes
from depth_distill.export.probe.operators import operator_probes
from depth_distill.export.probe.probes import Prober, run_probes
from depth_distill.export.probe.profile_writing import check_destination, write_profile
from depth_distill.export.probe.report import ProbeReport
from depth_distill.export.probe.substitutions import substitution_probes
from depth_distill.loading.trained import build_untrained
from depth_distill.quantization.recipe import NAIVE
from depth_distill.quantization.target.substitutions import ITSELF, UNCONFIRMED
from depth_distill.quantization.target.target import NpuTarget

_WORDS = {"yes": "confirmed", "no": "unsupported", "unconfirmed": "unconfirmed"}


def probe(
    target: NpuTarget,
    backend: str,
    onnx_file: Path | None,
    profile: Path | None,
    console: Console,
    json_file: Path | None = None,
) -> int:
    """Try a tool chain, print what was found, write it to a profile; 1 if the target's profile promises too much."""
    if profile is not None:
        check_destination(target, profile)
    operators = operator_probes(onnx_file) if onnx_file is not None else []
    prober = Prober(find_backend(backend))
    progress = plain_console(stderr=True)
    results = run_probes(
        prober,
        capability_probes(target),
        operators,
        lambda name: progress.print(Text(f"{backend}: {name}")),
        substitution_probes(target),
    )
    report = ProbeReport(target, f"{backend} {prober.version}", tuple(results))
    console.print(report.table())
    for line in report.disagreements():
        console.print(Text(line), soft_wrap=True)
    if profile is not None:
        remark = f"{report.tool_chain}, {datetime.date.today()}"
        changes = write_profile(
            target, profile, report.capabilities(), report.forbidden(), remark, report.substitutions()
        )
        console.print(Text(f"{profile}: {'; '.join(changes) or 'nothing changed'}"), soft_wrap=True)
    if json_file is not None:
        broken = [each.name for each in report.overstated]
        write_json(json_file, {"tool_chain": report.tool_chain, "results": list(map(vars, results)), "broken": broken})
    return int(bool(report.overstated))


def capability_table(target: NpuTarget) -> Table:
    """One row per capability: confirmed, unconfirmed or unsupported, and where the profile says so."""
    table = Table(title=f"{target.name}: {target.description}")
    for heading in ("capability", "support", "line of the profile"):
        table.add_column(heading)
    for name, support in dataclasses.asdict(target.capabilities).items():
        line = target.line_of(f"capabilities.{name}").split(": ")[0] if target.source else "-"
        table.add_row(name.replace("_", " "), _WORDS[support], line)
    for operator, by in target.substitutions.items():
        line = target.line_of(f"substitutions.{operator}").split(": ")[0] if target.source else "-"
        words = {ITSELF: "computed itself", UNCONFIRMED: UNCONFIRMED}
        table.add_row(operator, words.get(by, f"computed as {by}"), line)
    line = target.line_of("alignment").split(": ")[0] if target.source else "-"
    table.add_row("alignment", str(target.alignment), line)
    return table


def export_untrained(config: Path, overrides: Sequence[str], target: NpuTarget, path: Path) -> Path:
    """Write the network of a config, before training, as a float ONNX file."""
    run = build_untrained(config, overrides)
    prepared = run.preparer(target, ())(with_outputs(NAIVE, run.network.codec.host))
    return export_float(prepared.graph, path, FileSpec.of(prepared.interface, opset_for(target)))


def plain(value: object) -> object:
    """The same value with lists in place of tuples, for YAML and JSON."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
