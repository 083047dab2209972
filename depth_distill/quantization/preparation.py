"""The one runner of recipes, which every command uses.

    load -> trace -> recipe -> simulate -> write -> run -> report

This module is ``trace -> recipe -> simulate``: it runs a recipe pass by pass, each with its conditions checked. A
command adds its question only.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from depth_distill.errors import UserError
from depth_distill.quantization.conditions import (
    State,
    ensure_graph,
    ensure_same_function,
    ensure_traced,
    with_deviation,
)
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.passes.base import Context, Pass, PassError, PassReport, PassResult
from depth_distill.quantization.passes.fold import Fold
from depth_distill.quantization.passes.surgery.surgery import Surgery
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.simulate.calibrate import calibrate, structure_hash, weights_hash
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers
from depth_distill.quantization.simulate.ptq import with_ranges

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
    def batches(self) -> Sequence[Tensor]:
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
        graph = [weights_hash(self.graph), structure_hash(self.graph)]
        return [*graph, self.interface.inputs.to_dict(), str(self.interface.outputs)]


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
        self._states: dict[tuple[Pass, ...], State] = {(): State(start, start, start, start, context)}
        ensure_traced(network, self._states[()])
        self._reports: dict[tuple[Pass, ...], tuple[PassReport, ...]] = {(): ()}
        self._prepared: dict[Recipe, Prepared] = {}

    def __call__(self, recipe: Recipe) -> Prepared:
        """The network behind a recipe; the same object, with its calibration, for the same recipe.

        Raises:
            PassError: a pass cannot run, or did something that it must not; the message names it.
        """
        if recipe not in self._prepared:
            self._prepared[recipe] = self._run(recipe)
        return self._prepared[recipe]

    def _run(self, recipe: Recipe) -> Prepared:
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
            ensure_graph(state.graph, state.context.target)  # a state of a longer recipe may not have been checked
        except UserError as error:
            raise PassError(f"recipe {recipe}: {error}") from error
        interface = state.context.interface
        return Prepared(recipe, state.folded, state.trained, state.graph, interface, reports, state.context)

    def _step(self, before: State, each: Pass, where: str, unfinished: bool) -> tuple[State, PassReport]:
        context = dataclasses.replace(before.context, reference=before.reference)
        weights, started = weights_hash(before.graph), time.perf_counter()
        try:
            each.requires(before.graph, context)
            result = self._execute(each, before.graph, context)
            report = dataclasses.replace(result.report, seconds=time.perf_counter() - started)
            if not unfinished:  # what no quantizer owns yet may be what a later pass replaces
                ensure_graph(result.graph, context.target)
        except UserError as error:
            raise PassError(f"{where}: {error}") from error
        if weights_hash(before.graph) != weights:
            raise PassError(f"{where} changed the graph that it was given; a pass returns a new one")
        keeps = not each.changes_function and before.trained is before.graph
        state = State(
            result.graph if isinstance(each, Fold) else before.folded,
            result.graph if keeps else before.trained,
            # Rescaled behind a pass that changed the function, a layer has no counterpart in the trained network.
            before.reference if each.changes_function else result.graph,
            result.graph,
            dataclasses.replace(before.context, interface=result.interface or before.context.interface),
        )
        if each.changes_function:
            report = with_deviation(report, each, before, state)
        else:
            ensure_same_function(before, state, where)
        return state, report


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
