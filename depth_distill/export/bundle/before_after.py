"""INT8 before and after: the untouched network and what a recipe made of it, scored alike; the worse is left out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from depth_distill.evaluation import Evaluator, InterfaceScorer
from depth_distill.export.bundle.network import Candidates
from depth_distill.export.bundle.report import RuntimeRow, Section
from depth_distill.export.bundle.steps import StepRunner
from depth_distill.quantization.preparation import Prepared

UNTOUCHED = "untouched"
"""The network as it came, as a kind of file that is run but is not in the bundle."""
_NOISE = 0.01  # share of a deviation below which two are alike
_ABS_REL = 0.005  # share of FP32's abs_rel by which a recipe may raise it
_CLEAR = 0.5  # share of the other's deviation below which abs_rel does not count


@dataclass(frozen=True)
class Score:
    """INT8 as the target computes it, of the network behind a recipe.

    Attributes:
        recipe: the passes; ``untouched`` for the network as it came.
        metrics: see :class:`~depth_distill.evaluation.Evaluator`.
    """

    recipe: str
    metrics: Mapping[str, float]

    @property
    def mm(self) -> float:
        """Mean distance of depth from that of FP32, in mm."""
        return self.metrics["drift_mm"]


@dataclass(frozen=True)
class BeforeAfter:
    """What was compared, and what is exported.

    Attributes:
        floats: metrics of the network in FP32.
        scores: of each candidate; the first is ``untouched``, if it could be calibrated.
        exported: place of the exported one among them.
        prepared: the exported network.
        untouched: the untouched network, if it could be calibrated.
        reason: why that is not the recipe that was asked for; empty if it is.
        tried: see :class:`~depth_distill.export.bundle.network.Candidates`.
        note: why there is no untouched network to compare with; empty if there is.
    """

    floats: Mapping[str, float]
    scores: tuple[Score, ...]
    exported: int
    prepared: Prepared
    untouched: Prepared | None
    reason: str = ""
    tried: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    @property
    def after(self) -> Score:
        """Of what is exported."""
        return self.scores[self.exported]

    @property
    def before(self) -> Score | None:
        """Of the untouched network."""
        return None if self.untouched is None else self.scores[0]

    def to_dict(self) -> dict[str, Any]:
        """The record of a manifest."""
        scores = [{"recipe": each.recipe, "metrics": dict(each.metrics)} for each in self.scores]
        return {
            "scores": scores,
            "exported": self.exported,
            "reason": self.reason,
            "tried": [list(each) for each in self.tried],
            "note": self.note,
        }


def compare(
    candidates: Candidates, evaluator: Evaluator, state: Sequence[Any], steps: StepRunner, keep: bool = False
) -> BeforeAfter:
    """Score every candidate, and choose.

    The recipe that was asked for is exported, unless INT8 is better without it: closer to FP32 by more than noise; or,
    where the recipe does not bring depth twice as close, with an abs_rel that is lower by more than 0.5 % of FP32's.
    Below FP32's, abs_rel is luck, and counts as FP32's.

    Args:
        candidates: the networks.
        evaluator: the validation split; its reference is the trained network.
        state: what scores depend on besides the networks, as JSON.
        steps: runs each scoring as one step that can be kept.
        keep: whether the recipe is exported in any case.
    """
    asked = candidates.asked
    floats = steps.run("score the float network", [asked.fingerprint, *state], lambda: evaluator(asked.reference))
    networks = (
        (UNTOUCHED, candidates.untouched),
        (asked.recipe.bare.title, candidates.bare),
        (asked.recipe.title, asked),
    )
    scored: list[tuple[Score, Prepared]] = []
    for title, network in networks:
        if network is None or any(network.recipe == other.recipe for _, other in scored):
            continue
        scorer = InterfaceScorer(evaluator, network.interface)
        depends_on = [network.fingerprint, network.scales, *state]
        metrics = steps.run(f"score INT8, {title}", depends_on, partial(scorer, network.quantized))
        scored.append((Score(title, metrics), network))
    exported, reason = _choice(scored, candidates, floats["abs_rel"], keep)
    return BeforeAfter(
        floats,
        tuple(score for score, _ in scored),
        exported,
        scored[exported][1],
        candidates.untouched,
        reason,
        candidates.tried,
        candidates.note,
    )


def _choice(
    scored: Sequence[tuple[Score, Prepared]], candidates: Candidates, float_abs_rel: float, keep: bool
) -> tuple[int, str]:
    """The place of the best, and why that is not the last."""
    last = len(scored) - 1
    best, why = last, ""
    for place, (score, network) in enumerate(scored[:-1]):
        if network is candidates.untouched and network is not candidates.bare and not candidates.ends_as_asked:
            continue  # it has other outputs
        found = _worse(scored[best][0], score, float_abs_rel)
        if found:
            best, why = place, found
    if best == last:
        return last, ""
    if keep:
        return last, f"{why}; it is exported all the same, as asked"
    return best, f"{why}: {scored[best][0].recipe} is exported (--keep-recipe exports what was asked for)"


def _worse(score: Score, other: Score, float_abs_rel: float) -> str:
    """Why a score is worse than another, in words; empty where it is not."""
    if score.mm > (1 + _NOISE) * other.mm:
        return f"{score.recipe} moves depth by {score.mm:.1f} mm, {other.recipe} by {other.mm:.1f} mm"
    mine, others = (max(each.metrics["abs_rel"], float_abs_rel) for each in (score, other))
    if score.mm > _CLEAR * other.mm and mine > others + _ABS_REL * float_abs_rel:
        return (
            f"{score.recipe} has abs_rel {score.metrics['abs_rel']:.4f}, {other.recipe} "
            f"{other.metrics['abs_rel']:.4f} (FP32 {float_abs_rel:.4f})"
        )
    return ""


def cost(ratio: float) -> str:
    """What INT8 costs in abs_rel, in percent of that of FP32."""
    percent = round(100 * (ratio - 1), 1)
    return "nothing" if percent <= 0 else f"{percent:.1f} %"


def verdict(found: BeforeAfter, fitted: RuntimeRow | None, untouched: Sequence[RuntimeRow]) -> str:
    """The outcome in one sentence: where a decode table was fitted, by that tool chain; otherwise by the simulation.

    Args:
        found: the scores of the simulation.
        fitted: the file and the tool chain that a decode table was fitted on; None where there is no such table.
        untouched: the untouched network on the tool chains.
    """
    exact, before = found.floats["abs_rel"], None
    if fitted is not None and (decoded := fitted.with_table) is not None:
        after, where = (decoded.abs_rel, decoded.drift_mm), f"on {fitted.runtime}, decoded by the table"
        before = next(((row.abs_rel, row.drift_mm) for row in untouched if row.runtime == fitted.runtime), None)
    else:
        after, where = _numbers(found.after), "as the target computes it, simulated"
        if found.before is not None and found.before is not found.after:
            before = _numbers(found.before)
    share, distance = "", ""
    if before is not None and before[0] is not None:
        share = f" ({UNTOUCHED}: {cost(before[0] / exact)})"
        distance = f" ({UNTOUCHED}: {before[1]:.1f} mm)"
    return (
        f"INT8 costs {cost(after[0] / exact)}{share}: abs_rel {after[0]:.4f}, {exact:.4f} in FP32; depth moves by "
        f"{after[1]:.1f} mm{distance}; {where}."
    )


def _numbers(score: Score) -> tuple[float, float]:
    return score.metrics["abs_rel"], score.mm


def section(found: BeforeAfter, teacher: Mapping[str, float] | None, protocol: str, pictures: Sequence[str]) -> Section:
    """FP32 and every candidate in INT8, with all that tells them apart.

    Args:
        found: the scores.
        teacher: metrics of the teacher of a student, if it is known.
        protocol: how metrics are computed.
        pictures: names of pictures of them.
    """
    rows: list[tuple[str, Mapping[str, float]]] = [("teacher, FP32", teacher)] if teacher is not None else []
    rows.append(("FP32", found.floats))
    for place, score in enumerate(found.scores):
        rows.append((f"INT8, {score.recipe}" + ", exported" * (place == found.exported), score.metrics))
    exact = found.floats["abs_rel"]
    bands = [name for name, value in found.floats.items() if name.startswith("abs_rel_") and not math.isnan(value)]
    table = [
        (
            title,
            f"{metrics['abs_rel']:.4f}",
            f"{metrics['abs_rel'] / exact:.3f}",
            f"{metrics['rmse']:.3f}",
            f"{metrics['delta1']:.4f}",
            *(f"{metrics.get(name, float('nan')):.4f}" for name in bands),
            *(_millimetres(metrics, name) for name in ("drift_mm", "drift_p99_mm")),
        )
        for title, metrics in rows
    ]
    header = ("network", "abs_rel", "x FP32", "rmse [m]", "delta1", *(each.replace("_", " ", 2) for each in bands))
    lines = [f"INT8 as the target computes it, simulated. {protocol}. Distance from FP32: mean, and 99th percentile."]
    if found.note:
        lines.append(f"There is no untouched network to compare with: {found.note}")
    if found.reason:
        lines.append(f"{found.reason[0].upper()}{found.reason[1:]}.")
    return Section("Before and after", (*header, "from FP32 [mm]", "99 % [mm]"), table, lines, pictures)


def _millimetres(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.1f}" if name in metrics else "-"
