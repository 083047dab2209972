"""From a checkpoint to a bundle for an NPU, proven on the tool chains that are installed.

The bundle has the network as float, INT8, FP16 and mixed ONNX files, decoders for the host, calibration images,
recipes for tool chains, and a report of what each file scores on each runtime. It takes the place of an old one when
all of it is done; an interrupted export goes on where it stopped. Without ``--config``, the config in the checkpoint's
run folder is used; any key of it can be overridden, as in ``fit``.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from depth_distill.commands.device_options import add_reading, reading_of
from depth_distill.commands.options import (
    CommandParser,
    add_calibration_images,
    add_checkpoint,
    add_config,
    add_device,
    add_head,
    add_images,
    add_json,
    add_out,
    add_recipe,
    add_target,
    add_wandb,
)
from depth_distill.commands.values import positive_number, whole_number
from depth_distill.errors import ConfigError
from depth_distill.quantization.target.target import CalibratorName

if TYPE_CHECKING:
    from rich.console import Console

    from depth_distill.export.backends.backends import Backend
    from depth_distill.export.bundle.decode_table import TableSource
    from depth_distill.quantization.recipe import Recipe
    from depth_distill.quantization.target.target import NpuTarget

_FIRST = "the first"

EXAMPLE = """
depth-distill export --checkpoint runs/NAME/TIME/checkpoints/last.ckpt --target per-tensor-minmax --out bundle
depth-distill export --checkpoint CKPT --target per-tensor-minmax --out bundle --fit-decoder onnxruntime
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_checkpoint(parser)
    add_config(parser)
    add_target(parser)
    add_out(parser)
    add_wandb(parser)
    add_json(parser)
    network = parser.add_argument_group("the network")
    add_recipe(network)
    network.add_argument(
        "--keep-recipe", action="store_true", help="export what the recipe makes even where INT8 is better without it"
    )
    network.add_argument(
        "--calibrator", choices=get_args(CalibratorName), help="how ranges are chosen (default: the target's own)"
    )
    add_calibration_images(network)
    add_device(network)
    network.add_argument(
        "--bake-ranges", action="store_true", help="pass bake_ranges: turn learned activation ranges into Clip nodes"
    )
    files = parser.add_argument_group("the files")
    add_head(files)
    files.add_argument(
        "--uint8-input",
        action="store_true",
        help="pass uint8_input: take pixels; the first convolution normalizes them",
    )
    files.add_argument(
        "--logits", action="store_true", help="pass logits: end before the sigmoid, which is then the host's"
    )
    files.add_argument(
        "--separate-outputs",
        action=argparse.BooleanOptionalAction,
        help="pass separate_outputs: one output per code (default: for integer and fraction)",
    )
    files.add_argument(
        "--max-opset",
        type=whole_number,
        metavar="N",
        help="newest ONNX opset to use (default: 19, or an older one if the target says so)",
    )
    files.add_argument(
        "--high-precision-layers",
        nargs="+",
        metavar="LAYER",
        help="FP16 layers of model.mixed.onnx, or mixed_precision.json (default: the fewest are searched)",
    )
    files.add_argument(
        "--target-abs-rel",
        type=positive_number,
        metavar="X",
        help="abs_rel that FP16 layers are searched for (default: 1.02 times that of FP32)",
    )
    files.add_argument(
        "--search-images", type=whole_number, default=100, metavar="N", help="search on about this many images"
    )
    decoder = parser.add_argument_group("the decode table, for what a tool chain or device returns")
    table = decoder.add_mutually_exclusive_group()
    table.add_argument(
        "--fit-decoder",
        nargs="?",
        const=_FIRST,
        metavar="BACKEND",
        help="fit a table on what this tool chain returns for the calibration images (default: the first that is "
        "verified and takes the file as the target's tool chain does)",
    )
    table.add_argument(
        "--device-outputs",
        type=Path,
        metavar="DIR",
        help="fit it on what the device returned for the calibration images: 0000.npy, 0001.npy, ...",
    )
    table.add_argument("--decode-table", type=Path, metavar="JSON", help="use a table of depth-distill fit-decoder")
    add_reading(parser)
    proof = parser.add_argument_group("verification")
    proof.add_argument(
        "--backends",
        nargs="*",
        metavar="NAME",
        help="verify on these of `depth-distill list backends` (default: all that are installed)",
    )
    add_images(proof)
    proof.add_argument(
        "--allow-violations", action="store_true", help="export even what the target's profile does not allow"
    )


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Export, verify and report."""
    from depth_distill.atomic import write_json
    from depth_distill.display.console import plain_console
    from depth_distill.export.bundle.options import ExportOptions
    from depth_distill.export.bundle.pipeline import export_bundle
    from depth_distill.quantization.head import SINGLE
    from depth_distill.quantization.target.target import load_target

    console = plain_console()
    target, backends = load_target(options.target), _backends(options.backends, console)
    try:
        bundle = export_bundle(
            ExportOptions(
                checkpoint=options.checkpoint,
                out=options.out,
                config=options.config,
                overrides=overrides,
                recipe=_recipe(options),
                separate_outputs=options.separate_outputs,
                calibration_images=options.calibration_images,
                device=options.device,
                calibrator=options.calibrator,
                opset=options.max_opset,
                high_precision_layers=_high_precision_layers(options.high_precision_layers),
                target_abs_rel=options.target_abs_rel,
                search_images=options.search_images,
                images=options.images,
                backends=backends,
                decode_table=_decode_table(options, target, backends),
                refuse=not options.allow_violations,
                keep_head=options.head == SINGLE,
                keep_recipe=options.keep_recipe,
                command=shlex.join(["depth-distill", *options.words]),
            ),
            target,
            console,
        )
        for line in (bundle.manifest["verdict"], *bundle.manifest["metrics"].get("decode_table", ())):
            console.print(line, soft_wrap=True, highlight=False, style="bold", markup=False)
        console.print(f"bundle  {bundle.folder}", soft_wrap=True, highlight=False)
        console.print(f"report  {bundle.folder / 'report.html'}", soft_wrap=True, highlight=False)
        console.print(f"picture {bundle.folder / 'before_after.png'}", soft_wrap=True, highlight=False)
        if options.json is not None:
            write_json(options.json, dict(bundle.manifest))
    except KeyboardInterrupt:
        print(f"{options.out} is as it was; the same command goes on where it stopped", file=sys.stderr)
        raise
    if options.wandb == "true":
        from depth_distill.tracking.analyses import track

        config = {key: str(getattr(options, key)) for key in ("checkpoint", "target", "recipe")}
        track("export", options.out.absolute().parent, options.checkpoint, config, bundle=bundle.folder)


def _recipe(options: argparse.Namespace) -> "Recipe":
    """The recipe, and the passes that options stand for."""
    from depth_distill.quantization.head import with_head
    from depth_distill.quantization.passes.registry import PASSES
    from depth_distill.quantization.recipe import load_recipe

    names = ("bake_ranges", "logits", "uint8_input")
    recipe = with_head(load_recipe(options.recipe), options.head)
    return recipe.with_passes(*(PASSES[name]() for name in names if getattr(options, name)))


def _decode_table(
    options: argparse.Namespace, target: "NpuTarget", backends: "Sequence[Backend]"
) -> "TableSource | None":
    """What the options say about the decode table; None if nothing.

    Raises:
        ConfigError: the tool chain cannot do what the target's does, or the table cannot be read.
    """
    from depth_distill.commands.depth_sources import read_table
    from depth_distill.export.backends.backends import find_backend
    from depth_distill.export.bundle.decode_table import GivenTable, ran_on
    from depth_distill.export.device.calibration import CalibrationOutputs

    reading = reading_of(options)
    if options.decode_table is not None:
        return GivenTable(options.decode_table.name, read_table(options.decode_table))
    if options.device_outputs is not None:
        return CalibrationOutputs(options.device_outputs, reading)
    if options.fit_decoder is None:
        return None
    if options.fit_decoder == _FIRST:
        able = [each for each in backends if (each.quantizes if target.scales == "vendor" else "int8" in each.takes)]
        if not able:
            raise ConfigError(f"--fit-decoder: none of --backends runs files as the tool chain of {target.name} does")
        return able[0]
    backend = find_backend(options.fit_decoder)
    ran_on(backend, target.scales)
    if (why := backend.missing()) is not None:
        raise ConfigError(f"--fit-decoder: {why}")
    return backend


def _high_precision_layers(words: Sequence[str] | None) -> Path | tuple[str, ...] | None:
    if words is None:
        return None
    return Path(words[0]) if len(words) == 1 and words[0].endswith(".json") else tuple(words)


def _backends(names: Sequence[str] | None, console: "Console") -> "tuple[Backend, ...]":
    """Those that are named, which must be there; or all that are there, and a line about each that is not."""
    from depth_distill.export.backends.backends import BACKENDS, find_backend

    if names is None:
        for backend in BACKENDS.values():
            if (why := backend.missing()) is not None:
                console.print(f"not verified on {backend.name}: {why}", style="dim", soft_wrap=True, highlight=False)
        return tuple(backend for backend in BACKENDS.values() if backend.missing() is None)
    chosen = tuple(find_backend(name) for name in names)
    for backend in chosen:
        if (why := backend.missing()) is not None:
            raise ConfigError(f"--backends: {why}")
    return chosen
