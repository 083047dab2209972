"""Recipes: the ordered passes that make a float network ready for an NPU, and the one runner that every command uses.

    load -> trace -> recipe -> simulate -> write -> run -> report

This module is ``trace -> recipe -> simulate``. A command adds its question only.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depth_distill.errors import ConfigError, UserError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.graph.weights import unquantized_weights
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.passes.base import Context, Pass, PassError, PassReport, PassResult
from depth_distill.quantization.passes.fold import Fold
from depth_distill.quantization.passes.registry import PASSES
from depth_distill.quantization.passes.stress import Stress
from depth_distill.quantization.simulate.calibrate import calibrate, weights_hash
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, placement, quantizers
from depth_distill.quantization.simulate.ptq import with_ranges
from depth_distill.quantization.target.validated import FieldError, validated_from_mapping
from depth_distill.shipped_configs import shipped_folder, shipped_names
from depth_distill.suggestions import did_you_mean

DEFAULT_RECIPE = "equalize"
TOLERANCE = 1e-4
"""How far, relative to the largest code, a pass may move the output of a network whose function it claims to keep."""
_CHECKED_IMAGES = 16  # that this is checked on; a pass that changes a function shows on the first

Execute = Callable[[Pass, fx.GraphModule, Context], PassResult]
"""Runs a pass, or restores its result from an earlier run."""


@dataclass(frozen=True)
class Recipe:
    """An ordered list of passes: frozen, hashable, and the same thing in YAML, in a manifest and in a checkpoint.

    Attributes:
        passes: passes in the order in which they run.
        name: name of the recipe, for titles; it does not count for equality.

    Raises:
        ConfigError: an order that cannot be right.
    """

    passes: tuple[Pass, ...]
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        names = [each.name for each in self.passes]
        for each in ("fold", "equalize", "bake_ranges", "thermometer", "logits", "separate_outputs", "uint8_input"):
            if names.count(each) > 1:
                raise ConfigError(f"recipe {self}: {each} stands there {names.count(each)} times, expected once")
        if "fold" in names and names[0] != "fold":
            raise ConfigError(f"recipe {self}: fold comes after {names[0]}: put it first")
        for rescaling in ("equalize", "stress"):
            if "bake_ranges" in names and rescaling in names:
                raise ConfigError(
                    f"recipe {self}: bake_ranges keeps ranges that were learned for the present channel scales, and "
                    f"{rescaling} changes these: leave one of them out"
                )
        rounding = [place for place, each in enumerate(names) if each in ("adaround", "bias_correct")]
        late = (
            [each for each in names[rounding[0] + 1 :] if each not in ("adaround", "bias_correct")] if rounding else []
        )
        if late:
            raise ConfigError(
                f"recipe {self}: {names[rounding[0]]} fits weights to the grid of the network as it is, and {late[0]} "
                f"changes the network behind it: put {late[0]} before"
            )

    @classmethod
    def from_entries(cls, entries: Any, name: str = "") -> "Recipe":
        """A recipe from the list of a YAML file: names of passes, or ``name: {argument: value}``.

        Raises:
            ConfigError: not such a list, an unknown pass, or an argument that the pass does not take.
        """
        where = f"recipe {name}" if name else "recipe"
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise ConfigError(f"{where}: received {entries!r}, expected a list of passes ({', '.join(PASSES)})")
        return cls(tuple(_pass_of(entry, f"{where}, pass {place}") for place, entry in enumerate(entries, 1)), name)

    def to_entries(self) -> list[dict[str, Any]]:
        """Plain data from which :meth:`from_entries` makes an equal recipe; every argument is written out."""
        return [each.to_dict() for each in self.passes]

    @property
    def sha256(self) -> str:
        """Hash of the passes and their arguments: what a resumed job compares."""
        return hashlib.sha256(json.dumps(self.to_entries(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The record of a manifest or checkpoint."""
        return {"name": self.name, "passes": self.to_entries(), "sha256": self.sha256}

    def has(self, name: str) -> bool:
        """Whether a pass of this name is in it."""
        return any(each.name == name for each in self.passes)

    def then(self, *more: Pass) -> "Recipe":
        """The recipe and more passes behind it; without a name."""
        return Recipe((*self.passes, *more))

    def stressed(self, sigma: float | None) -> "Recipe":
        """The recipe on the network with its channel scales perturbed, for experiments; unchanged where None."""
        if sigma is None:
            return self
        place = int(bool(self.passes) and self.passes[0].name == "fold")
        return Recipe((*self.passes[:place], Stress(sigma), *self.passes[place:]))

    def with_passes(self, *more: Pass) -> "Recipe":
        """The recipe with passes that change what goes in and comes out, placed before anything is rounded."""
        first = next((k for k, each in enumerate(self.passes) if each.name in ("adaround", "bias_correct")), None)
        place = len(self.passes) if first is None else first
        name = " + ".join([self.name, *(each.name for each in more)]) if more else self.name
        return Recipe((*self.passes[:place], *more, *self.passes[place:]), name)

    def __str__(self) -> str:
        return self.name or f"[{', '.join(map(str, self.passes))}]"


NAIVE = Recipe((Fold(),), "naive")
"""The network as it is: the shipped recipe of that name."""


RecipeLike = str | Path | Recipe | Sequence[Any]
"""Whatever :func:`load_recipe` takes."""


def load_recipe(recipe: RecipeLike) -> Recipe:
    """A recipe from its name, its file, or its passes.

    Args:
        recipe: name of a shipped recipe; path of a YAML file with the key ``passes``; a list of passes as in such a
            file, also as YAML text (``[fold, {equalize: {max_iterations: 100}}]``); or a recipe.

    Raises:
        ConfigError: no such recipe, or one that is not valid; the message names the nearest name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | Path):
        return Recipe.from_entries(recipe)
    text = str(recipe)
    if text.lstrip().startswith("["):
        try:
            return Recipe.from_entries(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"recipe {text!r} is not valid YAML: {' '.join(str(error).split())}") from error
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        if text not in recipe_names():
            raise ConfigError(
                f"unknown recipe {text!r}; {did_you_mean(text, recipe_names())}, the path of a .yaml file, or a list "
                f"of passes ({', '.join(PASSES)})"
            )
        path = shipped_folder() / "recipe" / f"{text}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"recipe {path} does not exist; shipped are {', '.join(recipe_names())}") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping) or not {"passes"} <= content.keys() <= {"passes", "description"}:
        raise ConfigError(f"recipe {path}: expected the keys description and passes, received {content!r}")
    return Recipe.from_entries(content["passes"], path.stem)


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes."""
    return tuple(shipped_names("recipe"))


@dataclass(frozen=True)
class Prepared:
    """A network behind its recipe.

    Attributes:
        recipe: what was run.
        reference: the trained network with batch norm folded and otherwise untouched; it takes normalized images and
            returns codes.
        trained: the network behind the last pass that kept its function: the same function, with the channel scales
            of ``graph``.
        graph: the float network that a tool chain is given.
        interface: what ``graph`` takes and returns.
        reports: what each pass did, in order.
        context: target, calibration images and calibrator.
        ranges: activation ranges (lowest, highest) by site, where they were measured before.
    """

    recipe: Recipe
    reference: fx.GraphModule
    trained: fx.GraphModule
    graph: fx.GraphModule
    interface: Interface
    reports: tuple[PassReport, ...]
    context: Context
    ranges: Mapping[str, tuple[float, float]] | None = None

    @property
    def batches(self) -> list[Tensor]:
        """Calibration images as ``graph`` takes them."""
        return self.context.batches

    @cached_property
    def quantized(self) -> fx.GraphModule:
        """``graph`` as the target computes it, with ranges from the target's calibrator.

        Raises:
            ConfigError: see ``fake_quantize`` and ``check_representable``.
            DataError: see ``calibrate``.
        """
        quantized = fake_quantize(self.graph, self.context.target)
        return with_ranges(quantized, self.ranges or self._measure(quantized), self.interface.inputs.range)

    def calibrate(self) -> dict[str, tuple[float, float]]:
        """Activation ranges (lowest, highest) by site, as the target's tool chain measures them."""
        return self._measure(fake_quantize(self.graph, self.context.target))

    def _measure(self, quantized: fx.GraphModule) -> dict[str, tuple[float, float]]:
        progress = self.context.progress
        return dict(calibrate(quantized, self.batches, self.context.chosen_calibrator, progress=progress).ranges)

    @property
    def seconds(self) -> float:
        """Time that the passes took, without calibration."""
        return sum(report.seconds for report in self.reports)

    @property
    def scales(self) -> dict[str, list[Any]]:
        """Scale and zero point by site: what integer files depend on besides ``fingerprint``."""
        every = quantizers(self.quantized).items()
        return {site: [each.tolist() for each in quantizer.constants()] for site, quantizer in every}

    @property
    def fingerprint(self) -> list[Any]:
        """What everything that is made of ``graph`` depends on, as JSON."""
        return [weights_hash(self.graph), self.interface.inputs.to_dict(), str(self.interface.outputs)]


def run_pass(pass_: Pass, graph: fx.GraphModule, context: Context) -> PassResult:
    """The plain :data:`Execute`."""
    return pass_(graph, context)


class Preparer:
    """Runs recipes on one network: trace, then pass by pass, each with its conditions checked.

    Results are kept by the passes that lead to them, so recipes that begin alike share that work.

    Args:
        network: a module that maps normalized images to codes; it is not changed.
        context: target, calibration images and interface of the network.
        execute: how a pass is run; an exporter that can be interrupted keeps results on disk.
        on_report: called with every pass and its report.

    Raises:
        ConfigError: a network that cannot be traced.
    """

    def __init__(
        self,
        network: nn.Module,
        context: Context,
        execute: Execute = run_pass,
        on_report: Callable[[Pass, PassReport], object] = lambda pass_, report: None,
    ) -> None:
        self._execute, self._on_report = execute, on_report
        start = trace(network)
        self._states: dict[tuple[Pass, ...], _State] = {
            (): _State(start, start, dataclasses.replace(context, reference=start), ())
        }

    def __call__(self, recipe: Recipe) -> Prepared:
        """The network behind a recipe.

        Raises:
            PassError: a pass cannot run, or did something that it must not; the message names it.
        """
        done: tuple[Pass, ...] = ()
        for place, each in enumerate(recipe.passes, 1):
            before, done = self._states[done], (*done, each)
            if done not in self._states:
                self._states[done] = self._step(before, each, f"recipe {recipe}, pass {place} ({each.name})")
                self._on_report(each, self._states[done].reports[-1])
        state = self._states[done]
        context = dataclasses.replace(state.context, reference=None)
        trained = state.context.reference or state.graph
        return Prepared(recipe, state.folded, trained, state.graph, context.interface, state.reports, context)

    def _step(self, before: "_State", each: Pass, where: str) -> "_State":
        context, started = before.context, time.perf_counter()
        try:
            each.requires(before.graph, context)
            result = self._execute(each, before.graph, context)
            interface = result.interface or context.interface
            after = dataclasses.replace(context, interface=interface)
            _ensure_graph(result.graph, after)
        except PassError:
            raise
        except UserError as error:
            raise PassError(f"{where}: {error}") from error
        report = dataclasses.replace(result.report, seconds=time.perf_counter() - started)
        state = _State(before.folded, result.graph, after, (*before.reports, report))
        if not each.changes_function:
            _ensure_same_function(before, state, where)
            if context.reference is before.graph:
                after = dataclasses.replace(after, reference=result.graph)
        folded = result.graph if isinstance(each, Fold) else before.folded
        return dataclasses.replace(state, context=after, folded=folded)


@dataclass(frozen=True)
class _State:
    """A network between two passes."""

    folded: fx.GraphModule
    graph: fx.GraphModule
    context: Context
    reports: tuple[PassReport, ...]

    @cached_property
    def codes(self) -> Tensor | None:
        """Codes of some calibration images, in the codec of the trained network; None without images."""
        images = _some(self.context.images, _CHECKED_IMAGES)
        if images is None:
            return None
        device = next(iter(self.graph.state_dict().values()), images).device
        with torch.inference_mode():
            return self.context.interface.outputs.codes(self.graph(self.context.interface.feed(images).to(device)))


def structure_only(pass_: Pass, graph: fx.GraphModule, context: Context) -> PassResult:
    """An :data:`Execute` that needs no images: values of weights are left for a checkpoint to fill in."""
    if pass_.values_only:
        return PassResult(pass_.shaped(graph), PassReport("values left for a checkpoint"))
    return pass_(graph, context)


def exact_only(pass_: Pass, graph: fx.GraphModule, context: Context) -> PassResult:
    """An :data:`Execute` for a resumed training: the teacher needs passes that keep the function, and no others."""
    if pass_.values_only and pass_.changes_function:
        return PassResult(pass_.shaped(graph), PassReport("values left for a checkpoint"))
    return pass_(graph, context)


def _ensure_same_function(before: "_State", after: "_State", where: str) -> None:
    old, new = before.codes, after.codes
    if old is None or new is None:
        return
    if str(before.context.interface.codec) != str(after.context.interface.codec):
        # Another codec: compare what the codes mean, on the scale of the old codes.
        depth_m = after.context.interface.codec.decode_with(torch, new.float())
        new = before.context.interface.codec.encode_with(torch, depth_m)
        old = before.context.interface.codec.encode_with(
            torch, before.context.interface.codec.decode_with(torch, old.float())
        )
    deviation = float((new - old).abs().max() / old.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    if not deviation <= TOLERANCE:
        raise PassError(
            f"{where} changed what the network computes: its output moved by {deviation:.3g} of the largest code on "
            f"{len(new)} calibration images, allowed is {TOLERANCE:g}. A layer that computes more than its class says "
            "(a weight norm, an activation inside) is the usual reason: remove it, or leave the pass out"
        )


def _ensure_graph(graph: fx.GraphModule, context: Context) -> None:
    """Names of sites are unique, and every weight that the network multiplies by has a quantizer."""
    if any(isinstance(module, _BatchNorm) for module in graph.modules()):
        return  # not folded yet: no place for quantizers
    sites = [site.name for site in placement(graph, context.target)]
    twice = sorted({name for name in sites if sites.count(name) > 1})
    if twice:
        raise ConfigError(f"two places of the network are called {twice[0]!r}: their ranges would be confused")
    left = unquantized_weights(graph, sites)
    if left:
        raise ConfigError(
            f"{left[0]} would stay in float, because no layer with a quantizer owns it: rewrite that layer with "
            "nn.Conv2d, nn.ConvTranspose2d or nn.Linear"
        )


def _some(batches: Sequence[Tensor], count: int) -> Tensor | None:
    """About ``count`` images, evenly spread over all; None where there are none."""
    total = sum(len(batch) for batch in batches)
    if not total:
        return None
    chosen = set(range(0, total, max(1, total // count)))
    return torch.stack([image for place, image in enumerate(_each(batches)) if place in chosen])


def _each(batches: Sequence[Tensor]) -> Iterator[Tensor]:
    for batch in batches:
        yield from batch


def _pass_of(entry: Any, where: str) -> Pass:
    if isinstance(entry, Pass):
        return entry
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, arguments),) = entry.items()
    else:
        name, arguments = entry, {}
    if name not in PASSES:
        raise ConfigError(f"{where}: there is no pass {name!r}; {did_you_mean(str(name), PASSES)}")
    try:
        return validated_from_mapping(PASSES[name], {} if arguments is None else arguments)
    except FieldError as error:
        raise ConfigError(f"{where} ({name}): {error}") from error
