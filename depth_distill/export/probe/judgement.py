"""A question to a tool chain, what the right answer is, and which answers are wrong ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from depth_distill.export.backends.runtime import open_session, session_options
from depth_distill.export.probe.graphs import IMAGE

Verdict = Literal["confirmed", "unsupported", "unconfirmed"]
Arrays = Mapping[str, np.ndarray]

_CLEARLY_NEARER = 4  # times: a wrong_reading is one way to get it wrong, and a tool chain's may differ in details
_ROUNDING = 0.01  # of a step: float32 on the way to codes and back


@dataclass(frozen=True)
class WrongReading:
    """A wrong reading, as a model that says it plainly.

    Attributes:
        title: what was done instead.
        model: takes the same input, and has the same outputs.
        harmless: more precise than what was asked for, or less than 1 % beside it: no harm, but no proof either.
    """

    title: str
    model: onnx.ModelProto
    harmless: bool = False


@dataclass(frozen=True)
class Variant:
    """One file that asks for a capability.

    Attributes:
        title: how it asks, for messages; may be empty.
        model: the file.
        step: unit in which errors are counted; None is the largest right value of each output. Outputs of whole
            numbers have no step: what counts is the share of their elements that differ.
        unit: what a step is.
        tolerance: in steps.
        wrong_readings: what it must not come out as.
        reading: the right reading, where it is not what the file says.
        control: the same form without the capability, and what to call it: where it is refused as well, the form is
            what the tool chain refuses.
    """

    title: str
    model: onnx.ModelProto
    step: float | None
    unit: str = "output steps"
    tolerance: float = 1.0  # a multiplier of finite width may tip a code that lies near a tie
    wrong_readings: tuple[WrongReading, ...] = ()
    reading: onnx.ModelProto | None = None
    control: tuple[str, onnx.ModelProto] | None = None


@dataclass(frozen=True)
class Probe:
    """One question.

    Attributes:
        name: of the capability, or of the operator.
        inputs: ``(1, ...)``.
        variants: tried in this order until one is not refused.
        caveat: what its numbers cannot show.
    """

    name: str
    inputs: np.ndarray
    variants: tuple[Variant, ...]
    caveat: str = ""


def judge(variant: Variant, found: Arrays, truth: Arrays, wrong_readings: Sequence[Arrays]) -> tuple[Verdict, str]:
    """Compare what a tool chain computed with what the file says, and with each of the variant's wrong_readings.

    Args:
        variant: what was run.
        found: outputs of the tool chain.
        truth: outputs of the right reading.
        wrong_readings: outputs of the wrong readings, in the order of ``variant.wrong_readings``.
    """
    for name, value in truth.items():
        if name not in found or found[name].shape != value.shape:
            what = found[name].shape if name in found else "nothing"
            return "unconfirmed", f"returns {what} for {name}, expected {value.shape}"
    steps = {name: variant.step or _largest(value) or 1.0 for name, value in truth.items()}
    off = _distance(found, truth, steps)
    if not np.isfinite(off):
        return "unconfirmed", "returns NaN or infinity"
    from_wrong = [_distance(found, each, steps) for each in wrong_readings]
    nearest = int(np.argmin(from_wrong)) if wrong_readings else None
    limit = variant.tolerance + (_ROUNDING if variant.step else 0)
    numbers = f"off by {round(off, 3):.2g} {variant.unit}, at most {variant.tolerance:g}"
    if off <= limit and (nearest is None or off < from_wrong[nearest]):
        if nearest is not None:
            numbers += f"; {from_wrong[nearest]:.3g} from {variant.wrong_readings[nearest].title}"
        return "confirmed", numbers
    if nearest is not None and from_wrong[nearest] <= max(limit, off / _CLEARLY_NEARER):
        wrong_reading = variant.wrong_readings[nearest]
        distances = f"{from_wrong[nearest]:.3g} steps from that, {off:.3g} from what it says"
        reason = f"accepted, but {wrong_reading.title}: {distances}"
        return "unconfirmed" if wrong_reading.harmless else "unsupported", reason
    return "unconfirmed", f"runs, but is {numbers}"


def reference(model: onnx.ModelProto, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What a model says: ONNX Runtime without optimization, or ONNX's own evaluator where there are Casts to FP16.

    Those ONNX Runtime takes out, to compute in float32, even without optimization.
    """
    names = [each.name for each in model.graph.output]
    if any(node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16 for node in model.graph.node):
        results = ReferenceEvaluator(model).run(names, {IMAGE: inputs})
    else:
        session = open_session(model.SerializeToString(), session_options(False, 1), Path("probe.onnx"))
        results = session.run(names, {IMAGE: inputs})
    return dict(zip(names, results, strict=True))


def _distance(found: Arrays, truth: Arrays, steps: Mapping[str, float]) -> float:
    """Largest difference of any output in its steps, infinite where there is NaN; of whole numbers, the share."""
    differences = []
    for name, value in truth.items():
        if _is_whole(value):
            differences.append(float(np.mean(found[name] != value)))
        else:
            difference = np.abs(found[name].astype(np.float64) - value)
            differences.append(float(np.nan_to_num(difference, nan=np.inf).max()) / steps[name])
    return max(differences)


def _largest(value: np.ndarray) -> float | None:
    return None if _is_whole(value) else float(np.abs(value).max())


def _is_whole(value: np.ndarray) -> bool:
    return value.dtype.kind in "iub"
