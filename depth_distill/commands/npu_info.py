"""What an NPU can do, and whether its tool chain will take a network.

Without ``--check``, ``--config`` and ``--probe``, the profile is printed. A check ends with exit code 1 if the target
refuses an operator (with ``--strict`` also on warnings), a probe if the tool chain does not do what the profile counts
on; both with 2 where they cannot be done. Any key of ``--config`` can be overridden, as in ``fit``.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from depth_distill.commands.options import CommandParser, add_config, add_json, add_target
from depth_distill.commands.values import output_file
from depth_distill.errors import ConfigError

EXAMPLE = """
depth-distill npu-info --target aiware-apache6
depth-distill npu-info --target aiware-apache6 --supported-dtypes
depth-distill npu-info --target aiware-apache6 --check model.float.onnx
depth-distill npu-info --target aiware-apache6 --config teacher/resnet18 --data.root my_data
depth-distill npu-info --target per-channel --probe openvino --onnx model.int8.onnx --write-profile mine.yaml
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_target(parser, required=True)
    parser.add_argument("--supported-dtypes", action="store_true", help="print the capabilities only")
    parser.add_argument("--check", type=Path, metavar="ONNX", help="check the operators of this file")
    add_config(parser)
    parser.add_argument("--strict", action="store_true", help="let warnings count as well")
    parser.add_argument("--probe", metavar="BACKEND", help="try each capability on an installed tool chain")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="with --probe: try each operator of this file too")
    parser.add_argument(
        "--write-profile", type=output_file, metavar="YAML", help="with --probe: write the profile as found"
    )
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Print, check or probe."""
    import yaml  # type: ignore[import-untyped]

    from depth_distill.atomic import write_json
    from depth_distill.commands import capabilities
    from depth_distill.display.console import wide_console
    from depth_distill.export.check.npu_check import check_onnx
    from depth_distill.quantization.target.target import load_target

    console = wide_console()
    target = load_target(options.target)
    if options.probe is not None:
        if overrides or options.check or options.config or options.supported_dtypes or options.strict:
            raise ConfigError("--probe goes with --target, --onnx and --write-profile only; see --help")
        return capabilities.probe(target, options.probe, options.onnx, options.write_profile, console, options.json)
    for option in ("onnx", "write_profile"):
        if getattr(options, option) is not None:
            raise ConfigError(f"--{option.replace('_', '-')} needs --probe BACKEND")
    if options.check is None and options.config is None:
        if overrides:
            raise ConfigError(f"unknown options {' '.join(overrides)}; see --help")
        console.print(capabilities.capability_table(target))
        if not options.supported_dtypes:
            console.print(yaml.safe_dump(capabilities.plain(target.to_dict()), sort_keys=False), highlight=False)
        if options.json is not None:
            write_json(options.json, target.to_dict())
        return 0
    with tempfile.TemporaryDirectory() as folder:
        file = options.check or capabilities.export_untrained(
            options.config, overrides, target, Path(folder) / "model.float.onnx"
        )
        check = check_onnx(file, target)
    console.print(check.table(f"{options.check or options.config} for {target.name}"))
    if check.recipe_line:
        console.print(check.recipe_line, soft_wrap=True, highlight=False, markup=False)
    if options.json is not None:
        write_json(options.json, {"ok": check.ok, "findings": [vars(finding) for finding in check.findings]})
    return int(not check.ok or (options.strict and bool(check.findings)))
