"""The end of a network for a target that substitutes the activation there: before it, or in clips, as measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from depth_distill.errors import UserError
from depth_distill.quantization.analysis.deviation import DeviationScorer, Outputs
from depth_distill.quantization.graph.substituted import Substituted, output_sites, substitute, substituted
from depth_distill.quantization.passes.auto import Auto
from depth_distill.quantization.passes.base import Pass
from depth_distill.quantization.passes.outputs import Logits
from depth_distill.quantization.passes.pair import Pair
from depth_distill.quantization.passes.thermometer import Thermometer
from depth_distill.quantization.preparation import Prepared, Preparer
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.recipe_search import gains, hold_out
from depth_distill.quantization.simulate.fake_quantize import without_substitutions
from depth_distill.quantization.target.target import NpuTarget

_COSTS = 1.1  # deviation over that of the operator itself: a substitution below costs no other outputs

WAYS: tuple[Pass, ...] = (Logits(), Pair(), Thermometer())
"""Ends without a smooth activation, by what they cost: 1, 2 and 8 bytes per pixel. A later one has to be better."""


@dataclass(frozen=True)
class HeadChoice:
    """What became of the end of a network.

    Attributes:
        recipe: the recipe, with a pass that changes the end, if one was chosen.
        line: what was found, for people; empty where the target computes the end as the network does.
    """

    recipe: Recipe
    line: str = ""


def choose_head(
    recipe: Recipe,
    images: Sequence[Tensor],
    prepare: Callable[[Sequence[Tensor]], Preparer],
    keep: bool = False,
) -> HeadChoice:
    """The recipe, so that the network does not end in an activation whose substitution by the target costs accuracy.

    The ways out are the passes of :data:`WAYS`. Each is tried in the simulation of the target, on one image in four,
    which was not calibrated on, and judged by how far depth is from that of FP32. They come before passes that round
    weights, and before ``auto``, whose candidates are then judged behind the chosen end.

    Args:
        recipe: any recipe; one whose passes end the network otherwise is returned as it is.
        images: batches of calibration images.
        prepare: makes the preparer of the network for some calibration images.
        keep: whether the end stays as it is, at whatever cost, which is told.

    Raises:
        DataError: there are no images.
        UserError: the recipe cannot run.
    """
    several = sum(len(batch) for batch in images) > 1
    calibration, held_out = hold_out(images) if several else (list(images), list(images))
    preparer = prepare(calibration)
    place = next((k for k, each in enumerate(recipe.passes) if isinstance(each, Auto)), len(recipe.passes))
    before, after = Recipe(recipe.passes[:place]), recipe.passes[place:]
    behind = [each for each in after if not isinstance(each, Auto)]
    as_is = preparer(before.with_passes(*behind))
    target = as_is.context.target
    ending = substituted_ending(as_is.graph, target)
    if not ending:
        return HeadChoice(recipe)
    what = f"{target.name} computes {ending}"
    scorer = DeviationScorer(held_out, lambda batch: _depth(as_is, as_is.graph, batch))
    lost = scorer(lambda batch: _depth(as_is, as_is.quantized, batch))
    itself = without_substitutions(as_is.quantized, _endings(as_is.graph, target))  # no other end mends what is inside
    if lost.relative < _COSTS * scorer(lambda batch: _depth(as_is, itself, batch)).relative:
        return HeadChoice(recipe)
    if keep:
        return HeadChoice(recipe, f"{what}, and that is kept: expect depth to be off by {_percent(lost.relative)}")
    best, tried, reasons = None, [], []
    for way in WAYS:
        try:
            other = preparer(before.with_passes(way, *behind))
            found = scorer(lambda batch, other=other: _depth(other, other.quantized, batch))  # type: ignore[misc]
        except UserError as error:
            reasons.append(str(error).partition("\n")[0])
            continue
        tried.append(f"{way} {_percent(found.relative)}")
        if gains(found, lost if best is None else best[1]):
            best = way, found
    if best is None:
        why = f"; no way around it: {reasons[0]}" if reasons else ""
        return HeadChoice(recipe, f"{what}: expect depth to be off by {_percent(lost.relative)}{why}")
    way = best[0]
    chosen = Recipe((*before.with_passes(way).passes, *after), recipe.name)
    line = (
        f"{what}, which puts depth off by {_percent(lost.relative)}: the network ends in the pass {way} instead "
        f"({', '.join(tried)})"
    )
    return HeadChoice(chosen, line)


def substituted_ending(graph: fx.GraphModule, target: NpuTarget) -> str:
    """What the target computes instead of the activation that a network returns, in words; empty where nothing is."""
    endings = dict.fromkeys(f"{each.operator} as {each.by}" for each in _endings(graph, target).values())
    return f"the last {' and '.join(endings)}" if endings else ""


def _endings(graph: fx.GraphModule, target: NpuTarget) -> dict[str, Substituted]:
    """The activations that a network returns and the target substitutes, by site."""
    changed, _ = substitute(graph, target.substitutions, target.operators.max_opset)
    last = output_sites(changed)
    return {site: module for site, module in substituted(changed).items() if site in last}


def _depth(prepared: Prepared, graph: Callable[[Tensor], Any], batch: Tensor) -> Outputs:
    interface = prepared.interface
    return {"depth": interface.depth_m(graph(interface.feed(batch)))}


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
