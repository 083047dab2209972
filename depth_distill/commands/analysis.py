"""What the analyses start from: a trained network, quantized for a target, and what to score it on."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx

from depth_distill.atomic import write_json
from depth_distill.display.pictures import save_figure
from depth_distill.display.tables import wide_console
from depth_distill.evaluation import Evaluator
from depth_distill.loading import trained
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.equalize import channel_ranges, equalize
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.passes.stress import perturb_channel_scales
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import NpuTarget, load_target


@dataclass(frozen=True)
class QuantizedRun:
    """A trained network before and after quantization.

    Attributes:
        graph_module: the float network, folded, stressed and equalized as asked.
        quantized: the same for the target, calibrated.
        target: the target.
        evaluator: the validation split; drift is from ``graph_module``.
        calibration: batches of calibration images.
        title: checkpoint, target and preparation, for tables and pictures.
    """

    graph_module: fx.GraphModule
    quantized: fx.GraphModule
    target: NpuTarget
    evaluator: Evaluator
    calibration: list[Tensor]
    title: str


def quantize_run(options: argparse.Namespace, overrides: Sequence[str]) -> QuantizedRun:
    """Load, fold, stress, equalize and quantize as the options say.

    Raises:
        ConfigError: see the steps.
        DataError: see the steps.
    """
    target = load_target(options.target)
    run = trained.load_run(options.checkpoint, options.config, overrides)
    graph_module = fold(trace(run.network))
    title = f"{options.checkpoint.absolute().parent.parent.name}, {target.name}"
    calibration = run.calibration_images(options.calibration_images)
    if options.stress is not None:
        graph_module = perturb_channel_scales(graph_module, options.stress).graph_module
        title += f", stressed by {options.stress:g}"
    if options.equalize:
        equalization = equalize(graph_module, channel_ranges(graph_module, calibration))
        Console().print(equalization.report.table())
        graph_module = equalization.graph_module
        title += ", equalized"
    quantized = quantize_post_training(graph_module, target, calibration)
    evaluator = run.evaluator(options.images, reference=graph_module)
    return QuantizedRun(graph_module, quantized, target, evaluator, calibration, title)


def report(
    out: Path, name: str, values: dict[str, object], table: Table, figure: Figure, json_file: Path | None = None
) -> None:
    """Print the table; write ``<name>.json`` and ``<name>.png`` into the folder, and the JSON to another file too."""
    console = wide_console()
    console.print(table)
    for file in (out / f"{name}.json", json_file):
        if file is not None:
            write_json(file, values)
    save_figure(figure, out / f"{name}.png")
    console.print(f"written  {out / name}.json, {out / name}.png", soft_wrap=True, highlight=False)
