"""The one runner of recipes, which every command uses.

    load -> trace -> recipe -> simulate -> write -> run -> report

This module is ``trace -> recipe -> simulate``: it runs a recipe pass by pass, each with its conditions checked. A
command adds its question only.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depth_distill.errors import ConfigError, UserError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.graph.weights import unquantized_weights
from depth_distill.quantization.interface import Interface, RawOutputs
from depth_distill.quantization.passes.base import Context, Pass, PassError, PassReport, PassResult
from depth_distill.quantization.passes.fold import Fold
from depth_distill.quantization.passes.surgery.surgery import Surgery
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.simulate.calibrate import calibrate, weights_hash
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, placement, quantizers
from depth_distill.quantization.simulate.ptq import with_ranges
from depth_distill.quantization.target.target import NpuTarget

TOLERANCE = 1e-4
"""How far, relative to the largest code, a pass may move the output of a network whose function it claims to keep."""
_CODE_MARGIN = 1e-3  # how far codes may leave [0, 1]: a quarter of a step of 8 bits
_CHECKED_IMAGES = 16  # that this is checked on; a pass that changes a function shows on the first

_CHECKED_BATCHES = 4  # of raw outputs, which may be large: whole batches, because a graph may be for one size of them

Execute = Callable[[Pass, fx.GraphModule, Context], PassResult]
"""Runs a pass, or restores its result from an earlier run."""


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
        ConfigError: a network that cannot be traced, or whose graph computes something else.
    """

    def __init__(
        self,
        network: nn.Module,
        context: Context,
        execute: Execute = run_pass,
        on_report: Callable[[Pass, PassReport], object] = lambda pass_, report: None,
    ) -> None:
        self._execute, self._on_report = execute, on_report
        start = trace(network, image_size=(context.interface.inputs.height, context.interface.inputs.width))
        self._states: dict[tuple[Pass, ...], _State] = {(): _State(start, start, start, start, context)}
        _ensure_traced(network, self._states[()])
        self._reports: dict[tuple[Pass, ...], tuple[PassReport, ...]] = {(): ()}

    def __call__(self, recipe: Recipe) -> Prepared:
        """The network behind a recipe.

        Raises:
            PassError: a pass cannot run, or did something that it must not; the message names it.
        """
        done: tuple[Pass, ...] = ()
        for place, each in enumerate(recipe.passes, 1):
            earlier, done = done, (*done, each)
            if done not in self._states:
                unfinished = any(isinstance(later, Surgery) for later in recipe.passes[place:])
                where = f"recipe {recipe}, pass {place} ({each.name})"
                self._states[done], report = self._step(self._states[earlier], each, where, unfinished)
                self._reports[done] = (*self._reports[earlier], report)
                self._on_report(each, report)
        state, reports = self._states[done], self._reports[done]
        try:
            _ensure_graph(state.graph, state.context.target)  # a state of a longer recipe may not have been checked
        except UserError as error:
            raise PassError(f"recipe {recipe}: {error}") from error
        interface = state.context.interface
        return Prepared(recipe, state.folded, state.trained, state.graph, interface, reports, state.context)

    def _step(self, before: "_State", each: Pass, where: str, unfinished: bool) -> "tuple[_State, PassReport]":
        context = dataclasses.replace(before.context, reference=before.reference)
        weights, started = weights_hash(before.graph), time.perf_counter()
        try:
            each.requires(before.graph, context)
            result = self._execute(each, before.graph, context)
            report = dataclasses.replace(result.report, seconds=time.perf_counter() - started)
            if not unfinished:  # what no quantizer owns yet may be what a later pass replaces
                _ensure_graph(result.graph, context.target)
        except UserError as error:
            raise PassError(f"{where}: {error}") from error
        if weights_hash(before.graph) != weights:
            raise PassError(f"{where} changed the graph that it was given; a pass returns a new one")
        keeps = not each.changes_function and before.trained is before.graph
        state = _State(
            result.graph if isinstance(each, Fold) else before.folded,
            result.graph if keeps else before.trained,
            # Rescaled behind a pass that changed the function, a layer has no counterpart in the trained network.
            before.reference if each.changes_function else result.graph,
            result.graph,
            dataclasses.replace(before.context, interface=result.interface or before.context.interface),
        )
        if each.changes_function:
            report = _with_deviation(report, each, before, state)
        else:
            _ensure_same_function(before, state, where)
        return state, report


@dataclass(frozen=True)
class _State:
    """A network between two passes; the graphs are those of :class:`Prepared`, and ``Context.reference``."""

    folded: fx.GraphModule
    trained: fx.GraphModule
    reference: fx.GraphModule
    graph: fx.GraphModule
    context: Context

    @cached_property
    def raw_outputs(self) -> dict[str, Tensor]:
        """Every output for some calibration images, by name, for a network whose outputs have no known meaning."""
        interface, batches = self.context.interface, self.context.images
        step = max(1, -(-len(batches) // _CHECKED_BATCHES))
        device = next(iter(self.graph.state_dict().values()), torch.zeros(())).device
        with torch.inference_mode():
            runs = [interface.compared(self.graph(interface.feed(each).to(device))) for each in batches[::step]]
        return {name: torch.cat([run[name].flatten() for run in runs]).float() for name in (runs[0] if runs else ())}

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


def _with_deviation(report: PassReport, pass_: Pass, before: "_State", after: "_State") -> PassReport:
    """The report of a pass that changes the function, and how far it moved the output on the calibration images."""
    if isinstance(before.context.interface.outputs, RawOutputs):
        moves = [_moved(values, after.raw_outputs[name]) for name, values in before.raw_outputs.items()]
        if not moves:
            return report
        mean, largest = (max(each) for each in zip(*moves, strict=True))
    else:
        codes = _codes_on_one_scale(before, after)
        if codes is None:
            return report
        mean, largest = _moved(*codes)
    summary = report.summary
    if pass_.needs_training and not largest <= TOLERANCE:
        moved = f"output moved by {100 * mean:.2g} % of its range, at most {100 * largest:.2g} %"
        summary += f"; changes the function: {moved}; train behind it"
    values = {**report.values, "deviation": mean, "largest_deviation": largest}
    return dataclasses.replace(report, summary=summary, values=values)


def _moved(old: Tensor, new: Tensor) -> tuple[float, float]:
    """Mean and largest difference, as shares of the range of the old values."""
    span = (old.max() - old.min()).clamp(min=torch.finfo(torch.float32).tiny)
    difference = (new - old).abs() / span
    return float(difference.mean()), float(difference.max())


def _codes_on_one_scale(before: "_State", after: "_State") -> tuple[Tensor, Tensor] | None:
    """Codes before and after a pass, both in the codec of before; None without images."""
    old, new = before.codes, after.codes
    if old is None or new is None:
        return None
    if str(before.context.interface.codec) != str(after.context.interface.codec):
        # Another codec: compare what the codes mean, on the scale of the old codes.
        depth_m = after.context.interface.codec.decode_with(torch, new.float())
        new = before.context.interface.codec.encode_with(torch, depth_m)
        old = before.context.interface.codec.encode_with(
            torch, before.context.interface.codec.decode_with(torch, old.float())
        )
    return old, new


def _ensure_same_function(before: "_State", after: "_State", where: str) -> None:
    if isinstance(before.context.interface.outputs, RawOutputs):
        for name, values in before.raw_outputs.items():
            # Each against its own largest value: scores and box coordinates are not on one scale.
            _ensure_same_values(values, after.raw_outputs[name], f"{where} changed what the network computes", name)
        return
    codes = _codes_on_one_scale(before, after)
    if codes is not None:
        _ensure_same_values(*codes, f"{where} changed what the network computes")


def _ensure_traced(network: nn.Module, start: "_State") -> None:
    """On a few images, the graph computes what the network does."""
    interface = start.context.interface
    images = _some(start.context.images[:1], 2)
    if images is None or network.training:
        return
    device = next(iter(start.graph.state_dict().values()), images).device
    with torch.inference_mode():
        given = interface.feed(images).to(device)
        expected, found = (interface.compared(each(given)) for each in (network, start.graph))
    for name, values in expected.items():
        output = name if isinstance(interface.outputs, RawOutputs) else ""
        _ensure_same_values(values, found[name], "the traced graph is another function than the network", output)


def ensure_codes(network: nn.Module, context: Context) -> None:
    """Check on a few calibration images that a network returns what its interface says: codes of the images' size.

    A file clips what is outside of [0, 1], and the INT8 network agrees perfectly with the clipped one.

    Args:
        network: network in evaluation mode, as trained.
        context: its interface, and images; without images nothing is known.

    Raises:
        ConfigError: it returns several tensors, another shape or other values.
    """
    images, outputs = _some(context.images[:1], 2), context.interface.outputs
    if images is None or isinstance(outputs, RawOutputs):
        return
    device = next(iter(network.state_dict().values()), images).device
    with torch.inference_mode():
        returned = network(context.interface.feed(images).to(device))
    expected = (len(images), sum(outputs.channels), *images.shape[-2:])
    if not isinstance(returned, Tensor) or tuple(returned.shape) != expected:
        what = f"a tensor {tuple(returned.shape)}" if isinstance(returned, Tensor) else f"a {type(returned).__name__}"
        if isinstance(returned, Mapping):
            what += f" of {', '.join(map(repr, returned))}"
        elif isinstance(returned, list | tuple):
            what += f" of {len(returned)}"
        raise ConfigError(
            f"the network returned {what} for images {tuple(images.shape)}, expected one tensor {expected}: for a "
            "network with other outputs use ImportedNetwork, whose output says which one is meant, and resize its size"
        )
    lowest, highest = (float(each) for each in outputs.codes(returned).aminmax())
    if lowest < -_CODE_MARGIN or highest > 1 + _CODE_MARGIN:
        raise ConfigError(
            f"the network returned values from {lowest:.4g} to {highest:.4g}, expected codes in [0, 1]: a network that "
            "returns metres, or any other unit, comes in as ImportedNetwork with the meaning of its output"
        )


def _ensure_same_values(old: Tensor, new: Tensor, what: str, output: str = "") -> None:
    """Refuse a deviation past the tolerance, and one that is not a number."""
    if not old.numel():
        return
    deviation = float((new - old).abs().max() / old.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    if not deviation <= TOLERANCE:
        moved = f"output {output!r} moved by {deviation:.3g} of its largest value"
        if not output:
            moved = f"its output moved by {deviation:.3g} of the largest code on {len(new)} calibration images"
        raise PassError(
            f"{what}: {moved}, allowed is {TOLERANCE:g}. A layer that computes more than its class says "
            "(a weight norm, an activation inside) is the usual reason: remove it, or leave the pass out"
        )


def _ensure_graph(graph: fx.GraphModule, target: NpuTarget) -> None:
    """Names of sites are unique, and every weight that the network multiplies by has a quantizer."""
    if any(isinstance(module, _BatchNorm) for module in graph.modules()):
        return  # not folded yet: no place for quantizers
    sites = [site.name for site in placement(graph, target)]
    twice = sorted({name for name in sites if sites.count(name) > 1})
    if twice:
        raise ConfigError(f"two places of the network are called {twice[0]!r}: their ranges would be confused")
    left = unquantized_weights(graph, sites)
    if left:
        owner = type(graph.get_submodule(left[0].rpartition(".")[0])).__name__
        raise ConfigError(
            f"{left[0]} would stay in float, because no layer with a quantizer owns it, but a {owner}: rewrite that "
            "layer with nn.Conv2d, nn.ConvTranspose2d or nn.Linear"
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
