"""From a network to the same network, robust: try recipes, judge on held-out images, write the file that won."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor

from depth_distill.atomic import atomic_path
from depth_distill.data.network_inputs import NetworkInputs, PixelFormat, divide
from depth_distill.errors import ConfigError, UserError
from depth_distill.export.backends.runtime import as_input
from depth_distill.export.harden.judge import Judge
from depth_distill.export.harden.outcome import Hardening, HardenOptions, LayerRow, require_own_calibration
from depth_distill.export.harden.sources import CHECKPOINT, Source, open_source, resize_of, resize_option
from depth_distill.quantization.analysis.layer_deviation import layer_deviation
from depth_distill.quantization.graph.channel_groups import channel_groups
from depth_distill.quantization.head_choice import substituted_ending
from depth_distill.quantization.passes.auto import Auto
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Prepared, Preparer
from depth_distill.quantization.recipe import NAIVE, ROUNDING, Recipe
from depth_distill.quantization.recipe_search import RecipeSearch, Trial, search_recipe, simulated, try_recipes
from depth_distill.quantization.target.target import NpuTarget

FEW_IMAGES = 8
_LAYER_IMAGES = 4  # that the SQNR of layers is measured on
_IMAGENET = PixelFormat.named("imagenet")
_SPLITTING = ("split_channels", "split_weights", "clip_ranges")
_PASSES = ("fold", "replace_relu6", "equalize", *_SPLITTING, *ROUNDING, "auto")  # they keep inputs and outputs


def harden(options: HardenOptions, target: NpuTarget, console: Console) -> tuple[Hardening, Tensor]:
    """Harden a network and write ``options.out``.

    The search is scored by this package's simulation of the target. The last word has, where it can stand for the
    target's tool chain, ONNX Runtime's quantizer on the two files: unless the hardened one deviates less there, the
    untouched one is returned.

    Returns:
        The outcome, and the inputs that were calibrated on, ``(N, ...)``, in the type that the file takes.

    Raises:
        ConfigError: the source cannot be used, a pass cannot be written back, or no candidate can be quantized.
        DataError: the images cannot be used.
    """
    if options.out.suffix.lower() != ".onnx":
        raise ConfigError(f"--out {options.out}: expected the path of an .onnx file")
    if options.out.exists() and options.source.exists() and options.out.samefile(options.source):
        raise ConfigError(f"--out {options.out} is the source: choose another name, and keep the original")
    require_own_calibration(options.calibration)
    _require_recipe(options.recipe)
    source = open_source(options.source, options.size, options.overrides)
    name, pixels, resize = source.interface.inputs.name, _pixels(options, source), resize_of(source, options.resize)
    inputs = NetworkInputs(options.images, source.shape, name, pixels, resize)
    if options.pixels not in (None, PixelFormat.named("raw")) and not inputs.takes_pictures:
        raise ConfigError(
            f"{options.images} has .npy arrays, which are fed as they are: leave out --normalize, --mean, --std and "
            "--colour-order, or give pictures"
        )

    def say(word: str, text: str, style: str = "") -> None:
        console.print(Text(f"{word:8} {text}", style), soft_wrap=True)

    say("inputs", f"{inputs}{_hint(options, source, inputs)}")
    for note in filter(None, (inputs.note(resize_option(source)), *source.notes)):
        say("note", note, "yellow")
    chosen, judged = divide(len(inputs), options.calibration_images, options.held_out)
    warnings = list(source.notes)
    if len(inputs) < FEW_IMAGES:
        warnings.append(
            f"only {len(inputs)} images: ranges and verdict are uncertain; give {FEW_IMAGES} or more, best 64 or more"
        )
        say("warning", warnings[-1], "yellow")
    say("images", f"{len(chosen)} to calibrate on, {len(judged)} others to judge on")
    calibration = torch.stack([inputs.load(index) for index in chosen])
    held_out = torch.stack([inputs.load(index) for index in judged])
    given = calibration
    if source.takes_uint8:
        title = f"{options.images}: the input {source.interface.inputs.name!r} of {source.file}"
        given, _ = (as_input(each, torch.uint8, title) for each in (calibration, held_out))
    batches, others = list(calibration.split(source.batch)), list(held_out.split(source.batch))
    context = Context(target, batches, source.interface, progress=console.is_terminal)
    preparer = Preparer(source.network, context)
    search = _search(options, source, preparer, others, console)
    for line in _substituted(source, target, preparer, search):
        warnings.append(line)
        say("warning", line, "yellow")
    with tempfile.TemporaryDirectory() as folder, atomic_path(options.out) as temporary:
        judge = Judge(source, target, Path(folder), batches, others)
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
        given,
    )


def _substituted(source: Source, target: NpuTarget, preparer: Preparer, search: RecipeSearch) -> list[str]:
    """What the target computes in place of the activation that the file ends in, what it costs, and the way out.

    The outputs of a file that is hardened are its owner's: they stay.
    """
    ending = substituted_ending(preparer(NAIVE).graph, target)
    if not ending or search.before is None:
        return []
    off = f"{100 * search.before.relative:.2g} %"
    way = (
        "depth-distill export ends the network before it, or in clips, by itself"
        if source.file.suffix.lower() == CHECKPOINT
        else "end the file before it and compute it on the host, or correct what the device returns with depth-distill "
        "fit-decoder"
    )
    return [f"{target.name} computes {ending}: the output is off by {off} untouched, and no weights undo that; {way}"]


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
    effort = options.effort or auto.effort
    # Someone's file comes back with its own nodes, unless more is asked for.
    splits = source.file.suffix.lower() != ".onnx" or effort == "full"
    return search_recipe(preparer, score, base, effort, splits=splits, rivals=[NAIVE], on_trial=show)


def _layers(source: Source, preparer: Preparer, prepared: Prepared, batches: Sequence[Tensor]) -> tuple[LayerRow, ...]:
    """SQNR of each layer of the untouched network and of the one that is returned."""
    feeds = [source.interface.feed(each) for each in batches]
    naive = preparer(NAIVE)
    try:
        before = layer_deviation(naive.graph, naive.quantized, feeds)
    except UserError:
        return ()  # the untouched network cannot be quantized: nothing to compare with
    unrounded = Recipe(tuple(each for each in prepared.recipe.passes if each.name not in ROUNDING))
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
