"""What an NPU can do, and whether its tool chain will take a network.

    python tools/npu_info.py --target aiware-apache6                          # the whole profile
    python tools/npu_info.py --target aiware-apache6 --supported-dtypes       # its capabilities
    python tools/npu_info.py --target aiware-apache6 --check model.float.onnx
    python tools/npu_info.py --target aiware-apache6 --config configs/teacher/resnet18.yaml    # before training

A check ends with exit code 1 if the target refuses an operator (with --strict also on warnings), and with 2 where it
cannot be done. Options that are not listed override the config.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml  # type: ignore[import-untyped]
from rich.table import Table

from depth_distill.errors import ConfigError
from depth_distill.exits import exit_code
from depth_distill.export.float_onnx import export_float
from depth_distill.export.npu_check import check_onnx
from depth_distill.export.outputs import output_layout, separate_outputs
from depth_distill.quantization.fold import fold
from depth_distill.quantization.graph import trace
from depth_distill.quantization.target import NpuTarget, load_target
from depth_distill.tables import page
from depth_distill.trained import build_untrained

_WORDS = {"yes": "confirmed", "no": "unsupported", "unconfirmed": "unconfirmed"}


def main(args: Sequence[str] | None = None) -> int:
    """Print, or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="name of an NPU profile, or its .yaml file")
    parser.add_argument("--supported-dtypes", action="store_true", help="capabilities only")
    parser.add_argument("--check", type=Path, metavar="ONNX", help="check the operators of this file")
    parser.add_argument("--config", type=Path, help="check the network of this config, untrained")
    parser.add_argument("--strict", action="store_true", help="warnings count as well")
    options, overrides = parser.parse_known_args(args)
    console = page()

    def work() -> int:
        target = load_target(options.target)
        if options.check is None and options.config is None:
            if overrides:
                raise ConfigError(f"unknown options {' '.join(overrides)}; see --help")
            console.print(capability_table(target))
            if not options.supported_dtypes:
                console.print(yaml.safe_dump(_plain(target.to_dict()), sort_keys=False), highlight=False)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            file = options.check or _untrained(options.config, overrides, Path(folder) / "model.float.onnx")
            check = check_onnx(file, target)
        console.print(check.table(f"{options.check or options.config} for {target.name}"))
        return int(not check.ok or (options.strict and bool(check.findings)))

    return exit_code(work)


def capability_table(target: NpuTarget) -> Table:
    """One row a capability: confirmed, unconfirmed or unsupported, and where the profile says so."""
    table = Table(title=f"{target.name}: {target.description}")
    for heading in ("capability", "support", "line of the profile"):
        table.add_column(heading)
    for name, support in dataclasses.asdict(target.capabilities).items():
        line = target.line_of(f"capabilities.{name}").split(": ")[0] if target.source else "-"
        table.add_row(name.replace("_", " "), _WORDS[support], line)
    table.add_row("alignment", str(target.alignment), target.line_of("alignment").split(": ")[0])
    return table


def _untrained(config: Path, overrides: Sequence[str], path: Path) -> Path:
    run = build_untrained(config, overrides)
    layout = output_layout(run.network.codec.host)
    graph = fold(trace(run.network))
    if len(layout.names) > 1:
        graph = separate_outputs(graph, layout)
    return export_float(graph, torch.zeros(1, 3, *run.data.image_size), path, output_names=layout.names)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    sys.exit(main())
