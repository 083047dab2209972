"""What the analyses start from: a trained network behind a recipe, quantized for a target, and what to score it on."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table
from torch import fx

from depth_distill.atomic import write_json
from depth_distill.display.console import plain_console, wide_console
from depth_distill.display.pictures import save_figure
from depth_distill.evaluation import InterfaceScorer
from depth_distill.loading.trained import LoadedRun, load_run
from depth_distill.quantization.passes.base import Pass, PassReport
from depth_distill.quantization.preparation import Prepared
from depth_distill.quantization.recipe import load_recipe
from depth_distill.quantization.target.target import load_target
from depth_distill.runs import title_of


@dataclass(frozen=True)
class QuantizedRun:
    """A trained network behind its recipe, and what it is scored by.

    Attributes:
        prepared: the network in float and as the target computes it.
        scorer: scorer on the validation split; drift is measured from the trained network.
        title: checkpoint, target and recipe, for tables and pictures.
    """

    prepared: Prepared
    scorer: InterfaceScorer
    title: str

    @property
    def quantized(self) -> fx.GraphModule:
        """The network as the target computes it."""
        return self.prepared.quantized

    @property
    def protocol(self) -> str:
        """How the numbers were made."""
        return self.scorer.evaluator.protocol


def quantize_run(options: argparse.Namespace, overrides: Sequence[str]) -> QuantizedRun:
    """Load, run the recipe and quantize as the options say.

    Raises:
        ConfigError: see the steps.
        DataError: see the steps.
    """
    target, recipe = load_target(options.target), load_recipe(options.recipe)
    run = load_run(options.checkpoint, options.config, overrides, options.device)
    show_notes(run)
    images = run.calibration_images(options.calibration_images)
    recipe = run.chosen_recipe(recipe, target, images, progress=True, on_head=show_head)
    prepared = run.preparer(target, images, on_report=show, progress=True)(recipe)
    scorer = InterfaceScorer(run.evaluator(options.images, reference=prepared.reference), prepared.interface)
    name = title_of(options.checkpoint)
    return QuantizedRun(prepared, scorer, f"{name}, {target.name}, recipe {recipe}")


def show_notes(run: LoadedRun) -> None:
    """Print what becomes of images of another aspect ratio than the network's."""
    for note in run.notes:
        plain_console().print(note, highlight=False, soft_wrap=True)


def show_head(line: str) -> None:
    """Print what became of the end of a network for a target that substitutes the activation there."""
    plain_console().print(f"head: {line}", highlight=False, soft_wrap=True)


def show(pass_: Pass, report: PassReport) -> None:
    """Print what a pass did."""
    wide_console().print(f"{pass_.name}: {report.summary}" if report.table is None else report.table, highlight=False)


def track(options: argparse.Namespace, job: str, table: Table, name: str, metrics: Mapping[str, float]) -> None:
    """Log a result to Weights & Biases, if ``--wandb true`` was given."""
    if options.wandb != "true":
        return
    from depth_distill.tracking.analyses import track as log

    config = {key: str(getattr(options, key)) for key in ("checkpoint", "target", "recipe", "images")}
    log(job, options.out, options.checkpoint, config, metrics, {name: table}, [options.out / f"{name}.png"])


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
