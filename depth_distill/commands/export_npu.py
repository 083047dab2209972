"""From a checkpoint to a bundle for the NPU, proven on the tool chains that are installed.

    depth-distill export --checkpoint runs/.../last.ckpt --target per-tensor-minmax --out bundle
    make export-npu CKPT=runs/.../last.ckpt TARGET=per-tensor-minmax OUT=bundle

The bundle has the network as float, INT8, FP16 and mixed ONNX files, decoders for the host, calibration images,
recipes for tool chains, and a report of what each file scores on each runtime. It takes the place of the old one when
all of it is done; an interrupted export goes on where it stopped. Options that are not listed override the config.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from depth_distill.errors import ConfigError
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.backends import BACKENDS, Backend, find_backend
from depth_distill.export.bundle.pipeline import ExportOptions, export_bundle
from depth_distill.export.bundle.preparation import Preparation
from depth_distill.loading import trained
from depth_distill.quantization.target.target import CalibratorName, load_target

_INTERRUPTED = 130  # as a shell reports a process that Ctrl-C ended


def main(args: Sequence[str] | None = None) -> int:
    """Export, verify and report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trained.add_arguments(parser)
    parser.add_argument("--target", default="per-tensor-minmax", help="name of an NPU profile, or its .yaml file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    network = parser.add_argument_group("the network")
    network.add_argument("--equalize", action=argparse.BooleanOptionalAction, default=True, help="graph-wide (default)")
    network.add_argument("--stress", type=float, metavar="SIGMA", help="spread channel ranges first: for trials")
    network.add_argument("--calibrator", choices=get_args(CalibratorName), help="the target's own if not given")
    network.add_argument("--calibration-images", type=int, default=64, help="of the training split")
    network.add_argument("--bake-ranges", action="store_true", help="learned activation ranges become Clip nodes")
    files = parser.add_argument_group("the files")
    files.add_argument("--uint8-input", action="store_true", help="take pixels; the first convolution normalizes them")
    files.add_argument("--logits", action="store_true", help="end before the sigmoid, which is then the host's")
    files.add_argument(
        "--separate-outputs",
        action=argparse.BooleanOptionalAction,
        help="one output a code (default for integer and fraction)",
    )
    files.add_argument("--max-opset", type=int, help="of ONNX; 19 unless given, or older where the target says so")
    files.add_argument(
        "--high-precision-layers", nargs="+", help="FP16 layers of model.mixed.onnx, or mixed_precision.json"
    )
    files.add_argument("--target-abs-rel", type=float, help="that FP16 layers are searched for; 1.02 times FP32's")
    files.add_argument("--search-images", type=int, default=100, help="about how many that search scores on (100)")
    proof = parser.add_argument_group("verification")
    proof.add_argument("--backends", nargs="*", help=f"of {', '.join(BACKENDS)}; all that are installed if not given")
    proof.add_argument("--images", type=int, help="about so many of the validation split; all if not given")
    proof.add_argument("--allow-violations", action="store_true", help="export what the target refuses all the same")
    options, overrides = parser.parse_known_args(args)
    console = Console()
    words = sys.argv[1:] if args is None else args

    def work() -> int:
        bundle = export_bundle(
            ExportOptions(
                checkpoint=options.checkpoint,
                out=options.out,
                config=options.config,
                overrides=overrides,
                preparation=Preparation(
                    equalize=options.equalize,
                    stress=options.stress,
                    calibration_images=options.calibration_images,
                    calibrator=options.calibrator,
                    uint8_input=options.uint8_input,
                    logits=options.logits,
                    separate=options.separate_outputs,
                    bake_ranges=options.bake_ranges,
                ),
                opset=options.max_opset,
                high_precision_layers=_high_precision_layers(options.high_precision_layers),
                target_abs_rel=options.target_abs_rel,
                search_images=options.search_images,
                images=options.images,
                backends=_backends(options.backends, console),
                refuse=not options.allow_violations,
                command=shlex.join(["python", "depth-distill export", *words]),
            ),
            load_target(options.target),
            console,
        )
        console.print(f"bundle  {bundle.folder}", soft_wrap=True, highlight=False)
        console.print(f"report  {bundle.folder / 'report.html'}", soft_wrap=True, highlight=False)
        return 0

    try:
        return exit_code(work)
    except KeyboardInterrupt:
        console.print(
            f"interrupted: {options.out} is as it was; the same command goes on where it stopped", soft_wrap=True
        )
        return _INTERRUPTED


def _high_precision_layers(words: Sequence[str] | None) -> Path | tuple[str, ...] | None:
    if words is None:
        return None
    return Path(words[0]) if len(words) == 1 and words[0].endswith(".json") else tuple(words)


def _backends(names: Sequence[str] | None, console: Console) -> tuple[Backend, ...]:
    """Those that are named, which must be there; or all that are there, and a line about each that is not."""
    if names is None:
        for backend in BACKENDS.values():
            if (why := backend.missing()) is not None:
                console.print(f"[dim]not verified on {backend.name}: {why}[/dim]", soft_wrap=True, highlight=False)
        return tuple(backend for backend in BACKENDS.values() if backend.missing() is None)
    chosen = tuple(find_backend(name) for name in names)
    for backend in chosen:
        if (why := backend.missing()) is not None:
            raise ConfigError(f"--backends: {why}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
