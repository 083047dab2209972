"""From a network to the same network, robust: try recipes, judge on held-out images, write the file that won."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from depth_distill.atomic import atomic_path
from depth_distill.data.network_inputs import NetworkInputs, PixelFormat, divide
from depth_distill.errors import ConfigError, UserError
from depth_distill.export.backends.runtime import OnnxFile
from depth_distill.export.backends.vendor_ptq import inexpressible, vendor_ptq
from depth_distill.export.harden.sources import Source, open_source
from depth_distill.quantization.analysis.deviation import Deviation, DeviationScorer
from depth_distill.quantization.analysis.layer_deviation import layer_deviation
from depth_distill.quantization.graph.channel_groups import channel_groups
from depth_distill.quantization.passes.auto import Auto, Effort
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Prepared, Preparer
from depth_distill.quantization.recipe import NAIVE, Recipe, load_recipe
from depth_distill.quantization.recipe_search import (
    GAIN,
    RecipeSearch,
    Trial,
    search_recipe,
    simulated,
    try_recipes,
)
from depth_distill.quantization.target.target import NpuTarget

FEW_IMAGES = 8
_LAYER_IMAGES = 4  # that the SQNR of layers is measured on
_IMAGENET = PixelFormat.named("imagenet")
_ROUNDING = ("adaround", "bias_correct")
_PASSES = ("fold", "replace_relu6", "equalize", *_ROUNDING, "auto")  # they keep inputs and outputs as they are


@dataclass(frozen=True)
class HardenOptions:
    """Options of a hardening.

    Attributes:
        source: an ``.onnx`` file, a ``.ckpt`` of a run, or a config.
        images: folder of pictures or ``.npy`` arrays, without ground truth.
        out: the new ONNX file.
        recipe: passes to try; with ``auto``, those that are found.
        effort: how much ``auto`` tries; that of the recipe unless given.
        calibration_images: number of images to calibrate on, at most.
        held_out: number of further images to judge on, at most.
        pixels: how pixels become the input; by default as the source says, and ImageNet's normalization otherwise.
        size: height and width, for a file in which they are dynamic.
        overrides: options that change the network of a checkpoint or config.
    """

    source: Path
    images: Path
    out: Path
    recipe: Recipe = field(default_factory=lambda: load_recipe("auto"))
    effort: Effort | None = None
    calibration_images: int = 64
    held_out: int = 16
    pixels: PixelFormat | None = None
    size: tuple[int, int] | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class LayerRow:
    """A layer before and after.

    Attributes:
        name: its path in the graph, or that of an operator without weight.
        node: its name in the ONNX file, where it is another.
        before_db: SQNR of its output in dB with the untouched network quantized.
        after_db: the same of the network that is returned; None if it has no such operator.
        pinned: why its channels could not be rescaled; empty if they could.
        is_layer: whether it has a weight.
    """

    name: str
    node: str
    before_db: float
    after_db: float | None
    pinned: str
    is_layer: bool

    @property
    def title(self) -> str:
        """The name that a person knows it by: that in the file."""
        return self.node or self.name


@dataclass(frozen=True)
class Verdict:
    """What the judge measured, and what is returned.

    Attributes:
        judge: whose PTQ it was.
        before: deviation of the untouched network; None if it cannot be quantized.
        after: deviation of what is returned.
        recipe: passes of what is returned.
        hardened: whether this is anything but the untouched file.
        float_change: deviation of what is returned from the untouched network, both in FP32.
        notes: what a person should know about the decision.
    """

    judge: str
    before: Deviation | None
    after: Deviation
    recipe: Recipe
    hardened: bool
    float_change: Deviation | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hardening:
    """The whole outcome, for the report.

    Attributes:
        options: what was asked for.
        target: the NPU.
        inputs: how images became inputs, in words.
        search: the candidates, by this package's simulation.
        verdict: the decision.
        layers: every layer and rounded operator in graph order.
        summaries: what each pass of the returned recipe did, by name of the pass.
        calibration: files that were calibrated on.
        held_out: number of images that were judged on.
        warnings: what makes the numbers less certain.
    """

    options: HardenOptions
    target: NpuTarget
    inputs: str
    search: RecipeSearch
    verdict: Verdict
    layers: tuple[LayerRow, ...]
    summaries: tuple[tuple[str, str], ...]
    calibration: tuple[Path, ...]
    held_out: int
    warnings: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        before, after = self.verdict.before, self.verdict.after
        names = f"{self.options.out.name}", f"{self.options.source.name}"
        if not self.verdict.hardened:
            return (
                f"nothing helped: the untouched network was returned as {names[0]} "
                f"(INT8 deviation: {_both(after)[0]} SQNR, {_both(after)[1]} relative error)"
            )
        one = ("not quantizable", "-") if before is None else _both(before)
        two = _both(after)
        return (
            f"INT8 deviation: {one[0]} -> {two[0]} SQNR ({one[1]} -> {two[1]} relative error); "
            f"{names[0]} takes the place of {names[1]}"
        )


def harden(options: HardenOptions, target: NpuTarget, console: Console) -> tuple[Hardening, Tensor]:
    """Harden a network and write ``options.out``.

    The search is scored by this package's simulation of the target. The last word has, where it can stand for the
    target's tool chain, ONNX Runtime's quantizer on the two files: unless the hardened one deviates less there, the
    untouched one is returned.

    Returns:
        The outcome, and the inputs that were calibrated on, ``(N, ...)``.

    Raises:
        ConfigError: the source cannot be used, a pass cannot be written back, or no candidate can be quantized.
        DataError: the images cannot be used.
    """
    if options.out.suffix.lower() != ".onnx":
        raise ConfigError(f"--out {options.out}: expected the path of an .onnx file")
    if options.out.exists() and options.source.exists() and options.out.samefile(options.source):
        raise ConfigError(f"--out {options.out} is the source: choose another name, and keep the original")
    _require_recipe(options.recipe)
    source = open_source(options.source, options.size, options.overrides)
    inputs = NetworkInputs(options.images, source.shape, source.interface.inputs.name, _pixels(options, source))
    console.print(f"inputs   {inputs}{_hint(options, source, inputs)}", soft_wrap=True, highlight=False)
    for note in source.notes:
        console.print(f"[yellow]note     {note}[/yellow]", soft_wrap=True, highlight=False)
    chosen, judged = divide(len(inputs), options.calibration_images, options.held_out)
    warnings = list(source.notes)
    if len(inputs) < FEW_IMAGES:
        warnings.append(
            f"only {len(inputs)} images: ranges and verdict are uncertain; give {FEW_IMAGES} or more, best 64 or more"
        )
        console.print(f"[yellow]warning  {warnings[-1]}[/yellow]", soft_wrap=True, highlight=False)
    console.print(
        f"images   {len(chosen)} to calibrate on, {len(judged)} others to judge on", soft_wrap=True, highlight=False
    )
    calibration = torch.stack([inputs.load(index) for index in chosen])
    held_out = torch.stack([inputs.load(index) for index in judged])
    batches, others = list(calibration.split(source.batch)), list(held_out.split(source.batch))
    context = Context(target, batches, source.interface, progress=console.is_terminal)
    preparer = Preparer(source.network, context)
    search = _search(options, source, preparer, others, console)
    with tempfile.TemporaryDirectory() as folder, atomic_path(options.out) as temporary:
        judge = _Judge(source, target, Path(folder), batches, others)
        verdict = judge.decide(search, preparer, console)
        judge.copy_winner(temporary)
    prepared = preparer(verdict.recipe)
    layers = _layers(source, preparer, prepared, others[: max(1, _LAYER_IMAGES // source.batch)])
    summaries = tuple(
        (each.name, report.summary) for each, report in zip(prepared.recipe.passes, prepared.reports, strict=True)
    )
    files = tuple(inputs.files[index] for index in chosen)
    return (
        Hardening(
            options, target, str(inputs), search, verdict, layers, summaries, files, len(judged), tuple(warnings)
        ),
        calibration,
    )


class _Judge:
    """Measures candidates by the files that are returned, where a tool chain can; otherwise by the simulation."""

    def __init__(
        self, source: Source, target: NpuTarget, folder: Path, batches: Sequence[Tensor], held_out: Sequence[Tensor]
    ) -> None:
        self.source, self.target, self.folder = source, target, folder
        self.batches = batches
        self.files: dict[Recipe, Path] = {NAIVE: folder / "untouched.onnx"}
        source.untouched(self.files[NAIVE])
        untouched = OnnxFile(self.files[NAIVE])
        self.scorer = DeviationScorer(held_out, untouched)
        self.winner = NAIVE

    def decide(self, search: RecipeSearch, preparer: Preparer, console: Console) -> Verdict:
        """The last word: the best candidate whose file is better than the untouched one."""
        reason = inexpressible(self.target)
        measured: Callable[[Recipe], Deviation] = self._by_vendor
        before: Deviation | None = None
        judge, notes = "ONNX Runtime's quantizer", []
        if reason is None:
            try:
                with console.status("ONNX Runtime quantizes the untouched file"):
                    before = self._by_vendor(NAIVE)
            except Exception as error:  # its quantizer raises whatever it meets; the simulation has judged already
                reason = f"it refuses the file ({_first_line(error)})"
        if reason is not None:
            judge, before = "this package's simulation", search.before
            by_recipe = {each.recipe: each.deviation for each in search.trials if each.deviation is not None}
            measured = by_recipe.__getitem__
            notes.append(f"ONNX Runtime's quantizer cannot stand for {self.target.name}: {reason}")
        candidates = [each.recipe for each in search.trials if each.kept and each.recipe != NAIVE][::-1]
        for recipe in candidates:
            self._write(recipe, preparer(recipe))
            try:
                with console.status(f"{judge} measures the hardened file"):
                    after = measured(recipe)
            except Exception as error:  # see above
                notes.append(f"{_title(recipe)}: {judge} refuses the hardened file ({_first_line(error)})")
                continue
            if before is None or after.relative < (1 - GAIN) * before.relative:
                self.winner = recipe
                change = self.scorer(OnnxFile(self.files[recipe]))
                return Verdict(judge, before, after, recipe, True, change, tuple(notes))
            notes.append(
                f"{_title(recipe)} gains in our simulation, but not by {judge}: {_both(before)[0]} untouched, "
                f"{_both(after)[0]} hardened"
            )
        if before is None:
            raise ConfigError(f"no candidate can be quantized for {self.target.name}: {search.trials[0].note}")
        return Verdict(judge, before, before, NAIVE, False, None, tuple(notes))

    def copy_winner(self, path: Path) -> None:
        """Put the winner's file where it belongs."""
        path.write_bytes(self.files[self.winner].read_bytes())

    def _write(self, recipe: Recipe, prepared: Prepared) -> None:
        self.files[recipe] = self.folder / f"hardened_{len(self.files)}.onnx"
        self.source.write(prepared.graph, self.files[recipe])

    def _by_vendor(self, recipe: Recipe) -> Deviation:
        quantized = vendor_ptq(self.files[recipe], self.batches, self.folder / "quantized.onnx", target=self.target)
        # As written in the file: fused into integers, uint8 times int8 saturates on CPUs without VNNI, as on no NPU.
        return self.scorer(OnnxFile(quantized, optimize=False))


def _require_recipe(recipe: Recipe) -> None:
    names = [each.name for each in recipe.passes]
    for each in names:
        if each not in _PASSES:
            raise ConfigError(f"recipe {recipe}: {each} has no place here; expected passes of {', '.join(_PASSES)}")
    if Auto.name in names and names[-1] != Auto.name:
        raise ConfigError(f"recipe {recipe}: {names[-1]} stands behind auto: put it before, or leave it out")


def _pixels(options: HardenOptions, source: Source) -> PixelFormat:
    if source.pixels is not None:
        if options.pixels is not None:
            raise ConfigError(
                f"{source.file} knows how its images are normalized ({source.pixels}): leave out --normalize, --mean, "
                "--std and --colour-order"
            )
        return source.pixels
    if source.takes_uint8:
        given = options.pixels
        if given is not None and not given.raw:
            raise ConfigError(f"{source.file} takes uint8 pixels: they are fed as they are, with --normalize raw")
        return given or PixelFormat.named("raw")
    return options.pixels or _IMAGENET


def _hint(options: HardenOptions, source: Source, inputs: NetworkInputs) -> str:
    assumed = options.pixels is None and source.pixels is None and not source.takes_uint8 and inputs.takes_pictures
    return "; --normalize unit or raw if the network normalizes by itself" if assumed else ""


def _search(
    options: HardenOptions, source: Source, preparer: Preparer, held_out: Sequence[Tensor], console: Console
) -> RecipeSearch:
    def show(trial: Trial) -> None:
        passes, decibel, error, outcome = trial.cells()
        numbers = "" if trial.deviation is None else f"{decibel:>7} dB {error:>8} %  "
        console.print(f"tried    {passes:44} {numbers}{outcome}", soft_wrap=True, highlight=False)

    score = simulated(preparer, held_out)
    auto = next((each for each in options.recipe.passes if isinstance(each, Auto)), None)
    if auto is None:
        return try_recipes(preparer, score, [NAIVE, options.recipe], show)
    base = Recipe(tuple(each for each in options.recipe.passes if not isinstance(each, Auto)))
    base = base if base.has("fold") else Recipe((*NAIVE.passes, *base.passes))
    found = search_recipe(preparer, score, base, options.effort or auto.effort, on_trial=show)
    if base == NAIVE:
        return found
    plain = try_recipes(preparer, score, [NAIVE], show)  # the untouched network is always a candidate
    best = found.chosen if found.after.relative < (1 - GAIN) * plain.after.relative else NAIVE
    return RecipeSearch(best, (*plain.trials, *found.trials))


def _layers(source: Source, preparer: Preparer, prepared: Prepared, batches: Sequence[Tensor]) -> tuple[LayerRow, ...]:
    """SQNR of each layer of the untouched network and of the one that is returned."""
    feeds = [source.interface.feed(each) for each in batches]
    naive = preparer(NAIVE)
    try:
        before = layer_deviation(naive.graph, naive.quantized, feeds)
    except UserError:
        return ()  # the untouched network cannot be quantized: nothing to compare with
    unrounded = Recipe(tuple(each for each in prepared.recipe.passes if each.name not in _ROUNDING))
    after = layer_deviation(preparer(unrounded).graph, prepared.quantized, feeds)
    later = {each.name: each.sqnr_db for each in after}
    pinned: Mapping[str, str] = channel_groups(naive.graph).pinned
    return tuple(
        LayerRow(
            each.name,
            source.nodes.get(each.name, ""),
            each.sqnr_db,
            later.get(each.name),
            pinned.get(each.name, ""),
            each.is_layer,
        )
        for each in before
    )


def _both(deviation: Deviation) -> tuple[str, str]:
    """SQNR in dB and relative error in percent."""
    percent = 100 * deviation.relative
    if not math.isfinite(percent):
        return "NaN", "NaN"
    return f"{deviation.sqnr_db:.1f} dB", f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def _title(recipe: Recipe) -> str:
    return " + ".join(each.name for each in recipe.passes)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def as_json(found: Hardening) -> dict[str, Any]:
    """The record of a hardening."""
    verdict = found.verdict
    return {
        "source": found.options.source.name,
        "out": found.options.out.name,
        "target": found.target.to_dict(),
        "inputs": found.inputs,
        "verdict": found.sentence,
        "hardened": verdict.hardened,
        "judge": verdict.judge,
        "before": None if verdict.before is None else verdict.before.to_dict(),
        "after": verdict.after.to_dict(),
        "float_change": None if verdict.float_change is None else verdict.float_change.to_dict(),
        "recipe": verdict.recipe.to_dict(),
        "passes": [{"name": name, "summary": summary} for name, summary in found.summaries],
        "search": found.search.to_dict(),
        "layers": [
            {
                "name": each.name,
                "node": each.node or None,
                "sqnr_before_db": each.before_db,
                "sqnr_after_db": each.after_db,
                "pinned": each.pinned or None,
            }
            for each in found.layers
        ],
        "calibration": [str(path) for path in found.calibration],
        "held_out_images": found.held_out,
        "notes": list(verdict.notes),
        "warnings": list(found.warnings),
    }
