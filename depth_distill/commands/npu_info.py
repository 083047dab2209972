"""What an NPU can do, and whether its tool chain will take a network.

    depth-distill npu-info --target aiware-apache6                          # the whole profile
    depth-distill npu-info --target aiware-apache6 --supported-dtypes       # its capabilities
    depth-distill npu-info --target aiware-apache6 --check model.float.onnx
    depth-distill npu-info --target aiware-apache6 --config configs/teacher/resnet18.yaml    # before training
    depth-distill npu-info --target per-channel --probe openvino --onnx model.int8.onnx --write-profile mine.yaml

A check ends with exit code 1 if the target refuses an operator (with --strict also on warnings), a probe if the tool
chain does not do what the profile counts on; both with 2 where they cannot be done. Options that are not listed
override the config.
"""

import argparse
import dataclasses
import datetime
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table
from rich.text import Text

from depth_distill.display.tables import wide_console
from depth_distill.errors import ConfigError
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.backends import find_backend
from depth_distill.export.check.npu_check import check_onnx
from depth_distill.export.onnx_io.file_spec import FileSpec, opset_for
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.probe.models import capability_probes
from depth_distill.export.probe.operators import operator_probes
from depth_distill.export.probe.probes import Prober, run_probes
from depth_distill.export.probe.profile_writing import check_destination, write_profile
from depth_distill.export.probe.report import ProbeReport
from depth_distill.loading.trained import build_untrained
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import output_layout
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.passes.outputs import separate_outputs
from depth_distill.quantization.target.target import NpuTarget, load_target

_WORDS = {"yes": "confirmed", "no": "unsupported", "unconfirmed": "unconfirmed"}


def main(args: Sequence[str] | None = None) -> int:
    """Print, or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="name of an NPU profile, or its .yaml file")
    parser.add_argument("--supported-dtypes", action="store_true", help="capabilities only")
    parser.add_argument("--check", type=Path, metavar="ONNX", help="check the operators of this file")
    parser.add_argument("--config", type=Path, help="check the network of this config, untrained")
    parser.add_argument("--strict", action="store_true", help="warnings count as well")
    parser.add_argument("--probe", metavar="BACKEND", help="try each capability on an installed tool chain")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="with --probe: and each operator of it")
    parser.add_argument("--write-profile", type=Path, metavar="YAML", help="with --probe: the profile as found")
    options, overrides = parser.parse_known_args(args)
    console = wide_console()

    def work() -> int:
        target = load_target(options.target)
        if options.probe is not None:
            if overrides or options.check or options.config or options.supported_dtypes or options.strict:
                raise ConfigError("--probe goes with --target, --onnx and --write-profile only; see --help")
            return probe(target, options.probe, options.onnx, options.write_profile, console)
        for option in ("onnx", "write_profile"):
            if getattr(options, option) is not None:
                raise ConfigError(f"--{option.replace('_', '-')} needs --probe BACKEND")
        if options.check is None and options.config is None:
            if overrides:
                raise ConfigError(f"unknown options {' '.join(overrides)}; see --help")
            console.print(capability_table(target))
            if not options.supported_dtypes:
                console.print(yaml.safe_dump(_plain(target.to_dict()), sort_keys=False), highlight=False)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            file = options.check or _untrained(options.config, overrides, target, Path(folder) / "model.float.onnx")
            check = check_onnx(file, target)
        console.print(check.table(f"{options.check or options.config} for {target.name}"))
        return int(not check.ok or (options.strict and bool(check.findings)))

    return exit_code(work)


def probe(target: NpuTarget, backend: str, onnx_file: Path | None, profile: Path | None, console: Console) -> int:
    """Try a tool chain, print what was found, write it to a profile; 1 if the target's profile promises too much."""
    if profile is not None:
        check_destination(target, profile)
    operators = operator_probes(onnx_file) if onnx_file is not None else []
    prober = Prober(find_backend(backend))
    progress = Console(stderr=True)
    results = run_probes(
        prober, capability_probes(target), operators, lambda name: progress.print(Text(f"{backend}: {name}"))
    )
    report = ProbeReport(target, f"{backend} {prober.version}", tuple(results))
    console.print(report.table())
    for line in report.disagreements():
        console.print(Text(line), soft_wrap=True)
    if profile is not None:
        remark = f"{report.tool_chain}, {datetime.date.today()}"
        changes = write_profile(target, profile, report.capabilities(), report.forbidden(), remark)
        console.print(Text(f"{profile}: {'; '.join(changes) or 'nothing changed'}"), soft_wrap=True)
    return int(bool(report.broken))


def capability_table(target: NpuTarget) -> Table:
    """One row a capability: confirmed, unconfirmed or unsupported, and where the profile says so."""
    table = Table(title=f"{target.name}: {target.description}")
    for heading in ("capability", "support", "line of the profile"):
        table.add_column(heading)
    for name, support in dataclasses.asdict(target.capabilities).items():
        line = target.line_of(f"capabilities.{name}").split(": ")[0] if target.source else "-"
        table.add_row(name.replace("_", " "), _WORDS[support], line)
    line = target.line_of("alignment").split(": ")[0] if target.source else "-"
    table.add_row("alignment", str(target.alignment), line)
    return table


def _untrained(config: Path, overrides: Sequence[str], target: NpuTarget, path: Path) -> Path:
    run = build_untrained(config, overrides)
    layout = output_layout(run.network.codec.host)
    graph = fold(trace(run.network))
    if len(layout.names) > 1:
        graph = separate_outputs(graph, layout)
    return export_float(
        graph,
        path,
        FileSpec.like(torch.zeros(1, 3, *run.data.image_size), opset=opset_for(target), output_names=layout.names),
    )


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    sys.exit(main())
