"""The recipe ``auto``: passes are tried one by one, and kept only if the target's own PTQ then deviates less."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from depth_distill.errors import DataError, UserError, first_line
from depth_distill.quantization.analysis.deviation import Deviation, DeviationScorer, Outputs
from depth_distill.quantization.passes.adaround import AdaRound
from depth_distill.quantization.passes.auto import Auto, Effort
from depth_distill.quantization.passes.base import Pass
from depth_distill.quantization.passes.bias_correct import BiasCorrect
from depth_distill.quantization.passes.clip_ranges import ClipRanges
from depth_distill.quantization.passes.equalize import Equalize
from depth_distill.quantization.passes.replace_relu6 import ReplaceReLU6, replace_relu6
from depth_distill.quantization.passes.split_channels import SplitChannels
from depth_distill.quantization.preparation import Prepared, Preparer
from depth_distill.quantization.recipe import NAIVE, ROUNDING, Recipe

GAIN = 0.01
"""A candidate has to lower the deviation by this share to be kept: below lies noise of the held-out images."""
_HELD_OUT = 4  # one image in four, where the images of one set are divided

Score = Callable[[Prepared], Deviation]
"""Measures the deviation of a prepared network from FP32, after the target's own PTQ, on held-out images."""


@dataclass(frozen=True)
class Trial:
    """A candidate that was tried.

    Attributes:
        recipe: the passes.
        deviation: deviation from FP32 after PTQ; None if the passes cannot run on this network.
        kept: whether it was better than everything before it.
        seconds: time that the trial took, without passes that an earlier one had run.
        note: why the passes cannot run.
    """

    recipe: Recipe
    deviation: Deviation | None
    kept: bool
    seconds: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        deviation = None if self.deviation is None else self.deviation.to_dict()
        return {
            "passes": self.recipe.to_entries(),
            "deviation": deviation,
            "kept": self.kept,
            "seconds": self.seconds,
            "note": self.note,
        }

    def cells(self) -> tuple[str, str, str, str]:
        """Passes, SQNR in dB, relative error in percent, and the outcome, for tables."""
        passes = self.recipe.title
        if self.deviation is None:
            return passes, "-", "-", f"cannot run: {self.note}"
        error = f"{100 * self.deviation.relative:.2f}"
        return passes, f"{self.deviation.sqnr_db:.1f}", error, "kept" if self.kept else "not better"


TRIAL_HEADER = ("passes", "SQNR [dB]", "error [%]", "outcome")


@dataclass(frozen=True)
class RecipeSearch:
    """The outcome of a search.

    Attributes:
        chosen: the best recipe, called ``auto``.
        trials: every candidate in the order in which it was tried; the first is the network without any pass.
    """

    chosen: Recipe
    trials: tuple[Trial, ...] = field(default=())

    @property
    def before(self) -> Deviation | None:
        """Deviation of the first trial; None if its PTQ is refused."""
        return self.trials[0].deviation

    @property
    def after(self) -> Deviation:
        """Deviation of the chosen recipe."""
        best = _best(self.trials)
        assert best is not None
        assert best.deviation is not None
        return best.deviation

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"chosen": self.chosen.to_dict(), "trials": [each.to_dict() for each in self.trials]}

    def table(self) -> Table:
        """One row per candidate."""
        table = Table(title="Deviation from FP32 after PTQ, on held-out images")
        for title, side in zip(TRIAL_HEADER, ("left", "right", "right", "left"), strict=True):
            table.add_column(title, justify=side)  # type: ignore[arg-type]
        for each in self.trials:
            table.add_row(*each.cells())
        return table


def search_recipe(
    preparer: Preparer,
    score: Score,
    base: Recipe = NAIVE,
    effort: Effort = "fast",
    values_only: bool = False,
    splits: bool = True,
    rivals: Sequence[Recipe] = (),
    on_trial: Callable[[Trial], object] = lambda trial: None,
) -> RecipeSearch:
    """Try passes behind ``base``, greedily, and return the recipe that deviates least.

    First what makes channels alike (``equalize``) or gives them scales of their own (``split_channels``); where there
    are ReLU6, also with these replaced by ReLU; with the effort ``full`` what limits outliers (``clip_ranges``); then
    what fits weights and biases to the grid (``bias_correct``; with the effort ``full`` also
    ``adaround``), each behind the best that was found before. Splitting costs no multiplications; ``split_weights``
    does, so it is not tried. ``base`` itself is a candidate, so that the result is never worse, as measured.

    Args:
        preparer: runs recipes on the network, with calibration images for the passes.
        score: deviation of a candidate on images that are *not* those of the preparer.
        base: passes that every candidate begins with.
        effort: how much is tried.
        values_only: whether only passes are tried that leave the structure of the network as it is.
        splits: whether one layer may become several.
        rivals: recipes that are candidates too, and are tried first.
        on_trial: called with every candidate when it has been tried.

    Raises:
        UserError: no candidate can run, not even ``base``.
    """
    trials = _Trials(preparer, score, on_trial)

    def behind(recipe: Recipe, *passes: Pass) -> Recipe:
        return recipe.then(*(each for each in passes if not recipe.has(each.name)))

    for each in (*rivals, base):
        trials.attempt(each)
    rounded = any(base.has(each) for each in ROUNDING)
    equalizes = not base.keeps_scales

    def start() -> Recipe:
        best = _best(each for each in trials.tried if set(base.passes) <= set(each.recipe.passes))
        return base if best is None else best.recipe

    def attempt_behind(more: Pass) -> None:
        longer = behind(start(), more)
        if longer != start() and _does_something(preparer, longer):
            trials.attempt(longer)

    if equalizes:
        trials.attempt(behind(base, Equalize()))
    if splits and not (values_only or rounded):
        attempt_behind(SplitChannels())
    if equalizes and not values_only and _has_relu6(preparer, base):
        trials.attempt(behind(base, ReplaceReLU6(), Equalize()))
    if effort == "full" and not (values_only or rounded):
        attempt_behind(ClipRanges())
    if not (base.has("adaround") or base.has("reconstruct_blocks")):
        found = start()
        trials.attempt(behind(found, BiasCorrect()))
        if effort == "full" and not base.has("bias_correct"):
            trials.attempt(behind(found, AdaRound()))
            trials.attempt(behind(found, AdaRound(), BiasCorrect()))
    return trials.finish("auto")


def try_recipes(
    preparer: Preparer,
    score: Score,
    recipes: Sequence[Recipe],
    on_trial: Callable[[Trial], object] = lambda trial: None,
) -> RecipeSearch:
    """The best of some recipes; an earlier one wins unless a later one gains more than noise.

    Args:
        preparer: see :func:`search_recipe`.
        score: see :func:`search_recipe`.
        recipes: recipes in the order in which they are tried.
        on_trial: see :func:`search_recipe`.

    Raises:
        UserError: none of them can run.
    """
    trials = _Trials(preparer, score, on_trial)
    for each in recipes:
        trials.attempt(each)
    return trials.finish()


def chosen_recipe(
    recipe: Recipe,
    images: Sequence[Tensor],
    prepare: Callable[[Sequence[Tensor]], Preparer],
    on_trial: Callable[[Trial], object] = lambda trial: None,
) -> Recipe:
    """The recipe itself; where it has the pass ``auto``, with the passes that are best in its place.

    One image in four is held out of calibration during the search. Passes behind ``auto``, such as ``logits``, do not
    take part in the search.

    Args:
        recipe: any recipe.
        images: batches of calibration images.
        prepare: makes the preparer of the network for some calibration images.
        on_trial: see :func:`search_recipe`.

    Raises:
        DataError: there are fewer than two images.
        UserError: see :func:`search_recipe`.
    """
    place = next((k for k, each in enumerate(recipe.passes) if isinstance(each, Auto)), None)
    if place is None:
        return recipe
    auto = recipe.passes[place]
    assert isinstance(auto, Auto)
    base, after = Recipe(recipe.passes[:place]), recipe.passes[place + 1 :]
    calibration, held_out = hold_out(images)
    preparer = prepare(calibration)
    found = search_recipe(preparer, simulated(preparer, held_out, base), base, auto.effort, on_trial=on_trial)
    return Recipe(found.chosen.with_passes(*after).passes, recipe.name)


def simulated(preparer: Preparer, held_out: Sequence[Tensor], base: Recipe = NAIVE) -> Score:
    """The score by this package's own simulation of the target.

    Args:
        preparer: runs recipes on the network.
        held_out: batches of images that are not those of the preparer.
        base: what every candidate begins with. The reference is the float network behind its passes, without those that
            fit weights and biases to the grid.

    Raises:
        DataError: there are no held-out images, or FP32 returns NaN on them.
    """
    plain = preparer(Recipe(tuple(each for each in base.passes if not (each.changes_function and each.values_only))))
    scorer = DeviationScorer([plain.interface.feed(each) for each in held_out], _outputs(plain, plain.graph))

    def score(prepared: Prepared) -> Deviation:
        return scorer(_outputs(prepared, prepared.quantized))

    return score


def _outputs(prepared: Prepared, graph: nn.Module) -> Callable[[Tensor], Outputs]:
    return lambda batch: prepared.interface.compared(graph(batch))


def hold_out(batches: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Batches of three images in four, and of the others.

    Raises:
        DataError: there are fewer than two images.
    """
    images = [image for batch in batches for image in batch]
    if len(images) < 2:
        raise DataError(
            f"the recipe auto needs at least 2 calibration images, received {len(images)}: it calibrates on some and "
            "judges on the others"
        )
    held_out = set(range(1, len(images), _HELD_OUT))
    sets = (
        [image for place, image in enumerate(images) if place not in held_out],
        [image for place, image in enumerate(images) if place in held_out],
    )
    size = len(batches[0])
    calibration, judged = (list(torch.stack(each).split(size)) for each in sets)
    return calibration, judged


class _Trials:
    """The candidates that were tried, and the best of them."""

    def __init__(self, preparer: Preparer, score: Score, on_trial: Callable[[Trial], object]) -> None:
        self.preparer, self.score, self.on_trial = preparer, score, on_trial
        self.tried: list[Trial] = []

    def attempt(self, recipe: Recipe) -> bool:
        """Try a recipe that was not tried before; whether it is better than everything before it."""
        if any(each.recipe == recipe for each in self.tried):
            return False
        self.tried.append(self._try(recipe))
        self.on_trial(self.tried[-1])
        return self.tried[-1].kept

    def finish(self, name: str | None = None) -> RecipeSearch:
        best = _best(self.tried)
        if best is None:
            self.score(self.preparer(self.tried[0].recipe))  # raises, with the whole reason
            raise UserError(self.tried[0].note)
        recipe = best.recipe
        return RecipeSearch(recipe if name is None else Recipe(recipe.passes, name), tuple(self.tried))

    def _try(self, recipe: Recipe) -> Trial:
        started = time.perf_counter()
        try:
            deviation = self.score(self.preparer(recipe))
        except UserError as error:
            return Trial(recipe, None, False, time.perf_counter() - started, first_line(error))
        best = _best(self.tried)
        kept = gains(deviation, None if best is None else best.deviation)
        return Trial(recipe, deviation, kept, time.perf_counter() - started)


def gains(after: Deviation, before: Deviation | None) -> bool:
    """Whether a deviation is lower than another by more than noise; any is where there is no other."""
    return before is None or after.relative < (1 - GAIN) * before.relative


def _best(trials: Iterable[Trial]) -> Trial | None:
    """The last that gained on all before it; None if none could run."""
    best: Trial | None = None
    for each in trials:
        if each.deviation is not None and gains(each.deviation, None if best is None else best.deviation):
            best = each
    return best


def _does_something(preparer: Preparer, recipe: Recipe) -> bool:
    """Whether the last pass found anything to split or to clip; what cannot run is left for a trial to report."""
    try:
        values = preparer(recipe).reports[-1].values
    except UserError:
        return True
    return bool(values.get("split") or values.get("clipped"))


def _has_relu6(preparer: Preparer, base: Recipe) -> bool:
    return bool(replace_relu6(preparer(base).graph)[1])
