"""The metrics of a checkpoint, of an ONNX file, or of a folder of predictions, on the validation split of a run.

A file with integer codes in a bundle with a decode table is scored through it, and without it in one more line.

The split comes from the config: the one given by ``--config``, or the one in the checkpoint's run folder. A file or
predictions need no checkpoint. Inputs, outputs and codec of a file in a bundle are those of its manifest; any other
file takes normalized images and returns codes of the config's network. With ``--recipe`` a checkpoint is scored as the
target computes it behind that recipe, and by its deviation from the float network. Predictions are named after the
samples, as ``predict`` names them: 16-bit PNG in millimetres, or .npy in metres, of the size that the run evaluates at.
Any key of the config can be overridden, as in ``fit``.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depth_distill.commands.options import (
    CommandParser,
    add_calibration_images,
    add_checkpoint,
    add_config,
    add_device,
    add_images,
    add_json,
    add_recipe,
    add_target,
    add_wandb,
)
from depth_distill.commands.values import output_picture
from depth_distill.errors import ConfigError

if TYPE_CHECKING:
    from depth_distill.loading.trained import LoadedRun

EXAMPLE = """
depth-distill evaluate --checkpoint runs/NAME/TIME/checkpoints/last.ckpt
depth-distill evaluate --checkpoint runs/NAME/TIME/checkpoints/last.ckpt --onnx bundle/model.int8.onnx --panel int8.png
depth-distill evaluate --checkpoint runs/NAME/TIME/checkpoints/last.ckpt --recipe robust --target rknn
depth-distill evaluate --config runs/NAME/TIME/config.yaml --onnx bundle/model.int8.onnx --data.root my_data
depth-distill evaluate --config runs/NAME/TIME/config.yaml --predictions runs/NAME/TIME/predictions/depth
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_checkpoint(parser, required=False)
    add_config(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--onnx", type=Path, metavar="FILE", help="score a file of a bundle, or one that returns codes")
    what.add_argument("--predictions", type=Path, metavar="DIR", help="score a folder of depth maps")
    parser.add_argument(
        "--decode-table",
        type=Path,
        metavar="JSON",
        help="decode --onnx through a table of depth-distill fit-decoder (default: that of the file's bundle, for "
        "integer files)",
    )
    add_recipe(parser, default=None)
    add_target(parser)
    add_calibration_images(parser)
    add_images(parser)
    add_device(parser)
    parser.add_argument(
        "--panel", type=output_picture, metavar="PNG", help="picture of some images with ground truth, depth and error"
    )
    add_wandb(parser)
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Score, print and write."""
    from depth_distill.atomic import write_json
    from depth_distill.commands import depth_sources
    from depth_distill.commands.analysis import show_notes
    from depth_distill.display.console import wide_console
    from depth_distill.display.pictures import depth_panel, save_figure
    from depth_distill.display.tables import metric_table

    scored = options.onnx or options.predictions or options.checkpoint
    if scored is None:
        raise ConfigError("there is nothing to score: give --checkpoint, --onnx or --predictions")
    if options.decode_table is not None and options.onnx is None:
        raise ConfigError("--decode-table goes with --onnx, the file whose codes it corrects")
    if options.recipe is not None:
        _score_quantized(options, overrides)
        return
    loaded = _load(options, overrides)
    show_notes(loaded)
    evaluator = loaded.evaluator(options.images)
    file: depth_sources.FileDepth | None = None
    if options.predictions is not None:
        depth_of = depth_sources.of_predictions(options.predictions, loaded)
    elif options.onnx is not None:
        file = depth_sources.of_file(options.onnx, loaded.network.codec, options.decode_table)
        depth_of = file.depth_of
    else:
        depth_of = depth_sources.of_checkpoint(loaded)
    metrics = evaluator.of_batches(depth_of, "val")
    console, record = wide_console(), {"scored": str(scored), "protocol": evaluator.protocol, "metrics": metrics}
    console.print(metric_table(f"{scored}, val: {evaluator.protocol}", metrics))
    if file is not None and file.without_table is not None:
        before = evaluator.of_batches(file.without_table, "without decode table")
        record |= {"decode_table": file.table, "metrics_without_table": before}
        changes = ", ".join(f"{name} {before[name]:.4f} -> {metrics[name]:.4f}" for name in ("abs_rel", "rmse"))
        where = "" if file.of_this_runtime else " (this ran on ONNX Runtime)"
        console.print(f"through the decode table for {file.table}{where}: {changes}", soft_wrap=True, highlight=False)
    if options.json is not None:
        write_json(options.json, record)
    if options.panel is not None:
        save_figure(depth_panel(depth_sources.panel_rows(loaded, evaluator, depth_of)), options.panel)
    _track(options, metrics)


def _score_quantized(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from depth_distill.atomic import write_json
    from depth_distill.commands.analysis import quantize_run
    from depth_distill.display.console import wide_console
    from depth_distill.display.tables import metric_table

    if options.checkpoint is None or options.onnx or options.predictions or options.panel:
        raise ConfigError("--recipe goes with --checkpoint, and without --onnx, --predictions and --panel")
    quantized = quantize_run(options, overrides)
    metrics = quantized.scorer(quantized.quantized)
    wide_console().print(metric_table(f"INT8, {quantized.title}, val: {quantized.protocol}", metrics))
    if options.json is not None:
        record = {"scored": quantized.title, "protocol": quantized.protocol, "metrics": metrics}
        write_json(options.json, record)
    _track(options, metrics)


def _track(options: argparse.Namespace, metrics: Mapping[str, float]) -> None:
    if options.wandb != "true":
        return
    from depth_distill.tracking.analyses import track

    keys = ("checkpoint", "onnx", "predictions", "recipe", "target", "calibration_images", "images")
    config = {key: str(getattr(options, key)) for key in keys if getattr(options, key) is not None}
    folder = options.json.parent if options.json is not None else Path.cwd()
    track("evaluate", folder, options.checkpoint, config, metrics)


def _load(options: argparse.Namespace, overrides: Sequence[str]) -> "LoadedRun":
    from depth_distill.loading.trained import build_untrained, load_run

    if options.checkpoint is not None:
        return load_run(options.checkpoint, options.config, overrides, options.device)
    if options.config is None:
        raise ConfigError("the images to score on are missing: give --config (of a run), or --checkpoint")
    return build_untrained(options.config, overrides, options.device)
