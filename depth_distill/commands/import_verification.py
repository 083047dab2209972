"""What ``import`` checks: the same function, a plausible output, the right meaning, on real images."""

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from depth_distill.commands.import_config import ONNX_MODULE
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.loading.imported import ImportedNetwork
from depth_distill.loading.meaning_scores import (
    MeaningScore,
    better_meaning,
    output_range,
    require_plausible,
    score_meanings,
)
from depth_distill.loading.original import OriginalNetwork, deviation, original_outputs
from depth_distill.loading.trained import LoadedRun
from depth_distill.quantization.conditions import TOLERANCE
from depth_distill.quantization.graph.channel_groups import ChannelGroups, channel_groups
from depth_distill.quantization.recipe import load_recipe
from depth_distill.quantization.target.target import load_target


@dataclass(frozen=True)
class Verification:
    """Compares an imported network with the module that it was made from.

    Attributes:
        run: the network with its data.
        network: the network of the run.
        original: the module as the user has it.
        arguments: the arguments of the network as they were given.
        options: options of the command.
        console: what was found is printed here.
    """

    run: LoadedRun
    network: ImportedNetwork
    original: OriginalNetwork
    arguments: dict[str, Any]
    options: argparse.Namespace
    console: Console

    def __call__(self) -> dict[str, Any]:
        """Check everything; returns the record of it, as JSON.

        Raises:
            ConfigError: the network computes something else, or its output cannot mean what is said.
        """
        if self.arguments["weights"] is None and self.arguments["module"]["class_path"] != ONNX_MODULE:
            self.console.print("network     no weights are given: it has those that it is built with", style="yellow")
        images = self.run.calibration_images(self.options.images)
        outputs = original_outputs(self.original, self.arguments, images)
        wanted = [self.network.meaning.affine(raw) for raw in outputs]
        deviations = {"import": deviation(wanted, self.network, images)}
        if not deviations["import"] <= TOLERANCE:
            raise ConfigError(
                f"the imported graph differs from the module by {deviations['import']:.3g} of the largest output on "
                f"{self.options.images} images, allowed is {TOLERANCE:g}: please report this network"
            )
        found = None
        if self.network.has_meaning:
            found = output_range(self.network.meaning, outputs)
            require_plausible(found, self.network.meaning)
        preparer = self.run.preparer(load_target(self.options.target), images)
        for step, recipe in (("fold", "naive"), ("equalize", "equalize")):
            prepared = preparer(load_recipe(recipe))
            deviations[step] = deviation(wanted, prepared.graph, images)
        groups = channel_groups(prepared.reference)
        self.console.print(_pinned_table(groups))
        self.console.print(_deviation_table(deviations))
        record = {"deviation": deviations, "layers": len(groups.layers), "pinned": groups.pinned}
        if found is not None:
            self.console.print(
                f"output      {found.low:.4g} to {found.high:.4g}; {found.clipped:.1%} of the pixels are clipped to "
                f"the ends of {self.network.meaning.depth_range}",
                highlight=False,
            )
            scores = self._check_meaning()
            record["output"] = dataclasses.asdict(found)
            record["meanings"] = [dataclasses.asdict(each) | {"meaning": str(each.meaning)} for each in scores]
        return record

    def _check_meaning(self) -> list[MeaningScore]:
        """Score what the output means, and what it could mean as well, against ground truth."""
        data, network = self.run.data, self.network
        if not data.val or not data.val.has_depth:
            self.console.print("meaning     not checked, because there is no ground truth")
            return []
        batches = data.validation_batches(self.options.images)
        evaluator = Evaluator(batches, network.codec, self.run.bands_m, alignment=network.alignment)
        outputs = original_outputs(self.original, self.arguments, evaluator.images)
        scores = score_meanings(network.meaning, evaluator, outputs)
        self.console.print(_meaning_table(scores, sum(len(each) for each in evaluator.images)))
        better = better_meaning(scores)
        if better is not None:
            message = (
                f"meaning: as given ({scores[0].meaning}) abs_rel is {scores[0].abs_rel:.3f}, but "
                f"{better.abs_rel:.3f} as {better.meaning}"
            )
            if not self.options.keep_meaning:
                raise ConfigError(f"{message}: correct it, or give --keep-meaning")
            self.console.print(Text(message), style="yellow", soft_wrap=True)
        return scores


def _pinned_table(groups: ChannelGroups) -> Table:
    """The layers whose channels equalization cannot rescale, and why."""
    table = Table(title=f"{len(groups.pinned)} of {len(groups.layers)} layers keep the scale of their channels")
    table.add_column("layer")
    table.add_column("why")
    for name, reason in groups.pinned.items():
        table.add_row(Text(name), Text(reason))
    return table


def _deviation_table(deviations: dict[str, float]) -> Table:
    table = Table(title="Deviation from the module, relative to its largest output")
    for heading in ("step", "deviation", "allowed"):
        table.add_column(heading)
    for name, value in deviations.items():
        table.add_row(name, f"{value:.1e}", f"{TOLERANCE:.0e}")
    return table


def _meaning_table(scores: list[MeaningScore], images: int) -> Table:
    table = Table(title=f"What the output could mean: abs_rel on {images} images")
    table.add_column("meaning")
    for heading in ("abs_rel", "correlation"):
        table.add_column(heading, justify="right")
    for place, each in enumerate(scores):
        name = f"{each.meaning}{' (as given)' if place == 0 else ''}"
        table.add_row(Text(name), f"{each.abs_rel:.4f}", f"{each.correlation:.2f}")
    return table
