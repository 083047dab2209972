"""Probes of a tool chain: test models, their correct results, and known wrong results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from depth_distill.export.probe.graphs import IMAGE
from depth_distill.loading.onnx_importer.session import open_session, run_session, session_options

Verdict = Literal["confirmed", "unsupported", "unconfirmed"]
Arrays = Mapping[str, np.ndarray]

_CLEARLY_NEARER = 4  # times: a wrong reading is a simple model of an error, and the tool chain's may differ in details
_ROUNDING = 0.01  # of a step: float32 rounding in quantization and dequantization


@dataclass(frozen=True)
class WrongReading:
    """A wrong interpretation of a file, as a model that computes it explicitly.

    Attributes:
        title: what was done instead.
        model: model with the same input and outputs.
        harmless: whether it is more precise than the file, or off by less than 1 %: no harm, but no proof of support.
    """

    title: str
    model: onnx.ModelProto
    harmless: bool = False


@dataclass(frozen=True)
class Variant:
    """One file that requires a capability.

    Attributes:
        title: form of the file, for messages; may be empty.
        model: the file.
        step: unit in which errors are measured; None means the largest correct value of each output. Integer outputs
            have no step: their error is the share of elements that differ.
        unit: name of the step's unit.
        tolerance: largest error that still confirms, in steps.
        wrong_readings: known wrong interpretations, which the result must not match.
        reading: model of the correct interpretation, if it is not the file itself.
        control: name and model of the same form without the capability: if it is refused as well, the tool chain
            refuses the form, not the capability.
    """

    title: str
    model: onnx.ModelProto
    step: float | None
    unit: str = "output steps"
    tolerance: float = 1.0  # a fixed-point multiplier may round a code near a tie the other way
    wrong_readings: tuple[WrongReading, ...] = ()
    reading: onnx.ModelProto | None = None
    control: tuple[str, onnx.ModelProto] | None = None


@dataclass(frozen=True)
class Probe:
    """A test of one capability or operator.

    Attributes:
        name: name of the capability or operator.
        inputs: ``(1, ...)``.
        variants: files, tried in this order until one is not refused.
        caveat: what the results cannot show.
    """

    name: str
    inputs: np.ndarray
    variants: tuple[Variant, ...]
    caveat: str = ""


def judge(variant: Variant, found: Arrays, truth: Arrays, wrong_readings: Sequence[Arrays]) -> tuple[Verdict, str]:
    """Compare a tool chain's outputs with the correct ones and with those of the variant's wrong readings.

    Args:
        variant: the file that was run.
        found: outputs of the tool chain.
        truth: correct outputs.
        wrong_readings: outputs of the wrong readings, in the order of ``variant.wrong_readings``.

    Returns:
        The verdict and its reason.
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
        distances = f"{from_wrong[nearest]:.3g} steps from that, {off:.3g} from the correct result"
        reason = f"accepted, but {wrong_reading.title}: {distances}"
        return "unconfirmed" if wrong_reading.harmless else "unsupported", reason
    return "unconfirmed", f"runs, but is {numbers}"


def reference(model: onnx.ModelProto, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Reference outputs of a model: by ONNX Runtime without optimization, or by ONNX's evaluator for Casts to FP16.

    ONNX Runtime removes such Casts and computes in float32, even without optimization.
    """
    names = [each.name for each in model.graph.output]
    if any(node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16 for node in model.graph.node):
        results = ReferenceEvaluator(model).run(names, {IMAGE: inputs})
    else:
        session = open_session(model.SerializeToString(), "probe.onnx", session_options(False, 1))
        results = run_session(session, {IMAGE: inputs}, "probe.onnx", names)
    return dict(zip(names, results, strict=True))


def _distance(found: Arrays, truth: Arrays, steps: Mapping[str, float]) -> float:
    """Largest difference over all outputs, in steps; infinite for NaN; share of differing elements for integers."""
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
