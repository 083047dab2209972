"""The networks that a bundle may be made of: end, recipe and calibration of each, in steps that can be kept."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from depth_distill.codecs import HostCodec, TwoPartCodec
from depth_distill.errors import ConfigError, DataError, UserError, first_line
from depth_distill.export.bundle.options import ExportOptions
from depth_distill.export.bundle.steps import StepRunner, resumable_passes, tensor_hash
from depth_distill.loading.trained import LoadedRun
from depth_distill.quantization.head_choice import choose_head
from depth_distill.quantization.passes.auto import Auto
from depth_distill.quantization.passes.base import Pass, PassReport
from depth_distill.quantization.passes.outputs import Logits, SeparateOutputs
from depth_distill.quantization.passes.pair import Pair
from depth_distill.quantization.passes.thermometer import Thermometer
from depth_distill.quantization.preparation import Prepared, Preparer
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.recipe_search import Trial
from depth_distill.quantization.simulate.calibrate import weights_hash
from depth_distill.quantization.target.target import NpuTarget

_BATCH = 16  # calibration images per batch
_ENDS = (Logits.name, Pair.name, Thermometer.name)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What may be exported, calibrated on the same images.

    Attributes:
        untouched: the network as it came, with its own end; None where the target cannot calibrate it.
        bare: behind the recipe without the passes that only serve INT8; another one than ``untouched`` where the
            recipe, or the target's substitutions, end the network otherwise.
        asked: the network behind the recipe.
        ends_as_asked: whether ``untouched`` has the outputs that were asked for.
        tried: passes, SQNR, error and outcome of each recipe that ``auto`` tried.
        note: why there is no ``untouched``; empty if there is.
    """

    untouched: Prepared | None
    bare: Prepared | None
    asked: Prepared
    ends_as_asked: bool = True
    tried: tuple[tuple[str, ...], ...] = ()
    note: str = ""


def prepare_candidates(
    options: ExportOptions, target: NpuTarget, run: LoadedRun, steps: StepRunner, console: Console
) -> Candidates:
    """Choose the end and the recipe, run it, and calibrate, step by step; and the network without, to compare with.

    Raises:
        StepError: a step failed; the message has its name.
    """
    images = steps.run(
        "read calibration images", None, lambda: _calibration_images(run, options.calibration_images), value=False
    )
    return _Preparation(options, target, run, images, steps, console).candidates()


@dataclasses.dataclass(frozen=True)
class _Preparation:
    options: ExportOptions
    target: NpuTarget
    run: LoadedRun
    images: Sequence[Tensor]
    steps: StepRunner
    console: Console

    def candidates(self) -> Candidates:
        codec = self.run.network.codec.host
        recipe, tried = self._chosen(self._with_head())
        recipe = with_outputs(recipe, codec, self.options.separate_outputs)
        bare = recipe.bare
        own_end = bare.without(*_ENDS, *(() if isinstance(codec, TwoPartCodec) else (SeparateOutputs.name,)))
        untouched = own_end if any(bare.has(each) for each in _ENDS) else bare
        preparer = self._preparer(self.images, resumable_passes(self.steps), self._show_pass)
        found: dict[Recipe, Prepared] = {}
        asked = self._calibrated(preparer, recipe, "calibrate", found)
        note = ""
        for other, title in ((untouched, "calibrate the untouched network"), (bare, f"calibrate {bare.title}")):
            try:
                self._calibrated(preparer, other, title, found)
            except UserError as error:
                note = first_line(error)
        return Candidates(
            found.get(untouched),
            found.get(bare),
            asked,
            ends_as_asked=not any(self.options.recipe.has(each) for each in _ENDS),
            tried=tried,
            note=note if untouched not in found else "",
        )

    def _calibrated(self, preparer: Preparer, recipe: Recipe, title: str, found: dict[Recipe, Prepared]) -> Prepared:
        """The network behind a recipe with its ranges; also in ``found``, where it is taken from if it is there."""
        if recipe not in found:
            prepared = preparer(recipe)
            depends_on = [prepared.fingerprint, self._hashes, prepared.context.chosen_calibrator]
            ranges = self.steps.run(title, depends_on, prepared.calibrate)
            measured = {site: (low, high) for site, (low, high) in ranges.items()}
            found[recipe] = dataclasses.replace(prepared, ranges=measured)
        return found[recipe]

    def _with_head(self) -> Recipe:
        """The recipe of the options, with another end where the target would substitute the activation there."""
        given = self.options.recipe
        if not self.target.substituted:
            return given

        def choose() -> dict[str, Any]:
            found = choose_head(given, self.images, self._preparer, self.options.keep_head)
            return {"passes": found.recipe.to_entries(), "line": found.line}

        found = self.steps.run("choose the head", [*self._depends_on(given), self.options.keep_head], choose)
        if found["line"]:
            kept = found["passes"] == given.to_entries()
            word, style = ("warning", "yellow") if kept else ("head", "")
            self.console.print(f"{word:7} {found['line']}", style=style, highlight=False, soft_wrap=True)
        return Recipe.from_entries(found["passes"], given.name)

    def _chosen(self, recipe: Recipe) -> tuple[Recipe, tuple[tuple[str, ...], ...]]:
        """The recipe, with the passes that ``auto`` stands for, and what it tried."""
        if not recipe.has(Auto.name):
            return recipe, ()

        def choose() -> dict[str, Any]:
            tried: list[tuple[str, ...]] = []

            def note(trial: Trial) -> None:
                tried.append(trial.cells())
                self._show(", ".join(trial.cells()))

            found = self.run.chosen_recipe(
                recipe,
                self.target,
                self.images,
                self.options.calibrator,
                note,
                keep_head=True,  # its end is chosen already
            )
            return {"passes": found.to_entries(), "tried": tried}

        found = self.steps.run("choose the recipe", self._depends_on(recipe), choose)
        return Recipe.from_entries(found["passes"], recipe.name), tuple(tuple(each) for each in found["tried"])

    def _preparer(self, images: Sequence[Tensor], *more: Any) -> Preparer:
        return self.run.preparer(self.target, images, self.options.calibrator, *more)

    def _depends_on(self, recipe: Recipe) -> list[Any]:
        """What a choice depends on."""
        return [recipe.to_dict(), weights_hash(self.run.network), self._hashes, self.options.calibrator]

    @cached_property
    def _hashes(self) -> list[str]:
        return [tensor_hash(each) for each in self.images]

    def _show_pass(self, pass_: Pass, report: PassReport) -> None:
        if report.table is not None:
            self.console.print(report.table)
        else:
            self._show(report.summary)

    def _show(self, line: str) -> None:
        self.console.print(f"       {line}", style="dim", highlight=False, soft_wrap=True)


def with_outputs(recipe: Recipe, codec: HostCodec, separate: bool | None = None) -> Recipe:
    """The recipe, with separate outputs if ``separate``; by default only for integer and fraction.

    Raises:
        ConfigError: the recipe has the pass ``separate_outputs`` or ``pair``, but ``separate`` is False.
    """
    if recipe.has(Pair.name):
        if separate is False:
            raise ConfigError(f"recipe {recipe} has the pass pair, whose two outputs cannot be one: leave one out")
        separate = bool(separate)
    if separate is False and recipe.has(SeparateOutputs.name):
        raise ConfigError(f"recipe {recipe} has the pass separate_outputs, but one output is requested: choose one")
    separate = isinstance(codec, TwoPartCodec) if separate is None else separate
    return recipe.with_passes(SeparateOutputs()) if separate and not recipe.has(SeparateOutputs.name) else recipe


def _calibration_images(run: LoadedRun, count: int) -> list[Tensor]:
    batches = run.calibration_images(count)
    if not batches:
        raise DataError("the calibration set is empty: expected at least one image")
    images = torch.cat(list(batches))
    wrong = [index for index, each in enumerate(images) if not bool(each.isfinite().all())]
    if wrong:
        raise DataError(
            f"calibration image {wrong[0]} has NaN or infinity ({len(wrong)} of {len(images)} have): "
            "repair or leave out these files, and check data.image_mean and data.image_std"
        )
    return list(images.split(_BATCH))
