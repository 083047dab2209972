"""Drift: how far what ran is from what should have run, of outputs and layer by layer."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depth_distill.data.reading import did_you_mean
from depth_distill.errors import ConfigError, DataError
from depth_distill.export.onnx_io.layers import INPUT, LayerRunner, layers_of, load, matched

_SAME_STEP = 1.01  # 1 % for float rounding, as in parity


@dataclass(frozen=True)
class Drift:
    """Statistics of ``|a - b|`` over all elements of all inputs.

    Attributes:
        mean: of ``|a - b|``.
        p50: its median; percentiles are right within 0.4 %.
        p99: its 99th percentile.
        p999: its 99.9th percentile.
        max: its largest value.
        sqnr_db: power of the reference over power of the difference, in dB; infinite where there is none.
        reference_range: largest less smallest value of the reference.
        step: of the quantizer, if one was given.
        beyond_step: share of elements, in [0, 1], that are off by more than a step; None without one.
    """

    mean: float
    p50: float
    p99: float
    p999: float
    max: float
    sqnr_db: float
    reference_range: float
    step: float | None = None
    beyond_step: float | None = None

    @property
    def relative(self) -> float:
        """Mean as a share of the reference's range, to compare layers by; the mean itself where that is 0."""
        return self.mean / self.reference_range if self.reference_range > 0 else self.mean

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "relative": self.relative}


@dataclass(frozen=True)
class LayerDrift:
    """Drift of one layer's output.

    Attributes:
        name: of the layer.
        op: its ONNX operator.
        drift: of its output.
    """

    name: str
    op: str
    drift: Drift

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "op": self.op, **self.drift.to_dict()}


class DriftStatistics:
    """Gathers :class:`Drift` piece by piece, in constant memory.

    Percentiles come from one histogram over all pieces, whose bins are the upper 16 bits of a float32: sign, exponent
    and 7 bits of the fraction, so a bin is at most 1/128 wide, and its middle within 0.4 % of all in it.

    Args:
        name: of what is compared, for errors.
        step: of the quantizer.
    """

    def __init__(self, name: str, step: float | None = None) -> None:
        self.name, self.step = name, step
        self._histogram = np.zeros(1 << 15, np.int64)
        self._sum = self._signal = self._noise = self._max = 0.0
        self._beyond = 0
        self._low, self._high = math.inf, -math.inf

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Take in a piece of both.

        Raises:
            DataError: shapes that differ, no elements, or a value that is not finite.
        """
        if reference.shape != other.shape or not reference.size:
            raise DataError(f"{self.name}: the shape is {other.shape}, expected {reference.shape}")
        for side, values in (("the reference", reference), ("what is compared with it", other)):
            wrong = values.size - int(np.isfinite(values).sum())
            if wrong:
                raise DataError(f"{self.name}: {wrong} of {values.size} values of {side} are NaN or infinite")
        reference = reference.astype(np.float64)
        distance = np.abs(reference - other)
        bins = np.ascontiguousarray(distance, np.float32).view(np.uint32) >> 16
        self._histogram += np.bincount(bins.ravel(), minlength=1 << 15)
        self._sum += float(distance.sum())
        self._noise += float(np.square(distance).sum())
        self._signal += float(np.square(reference).sum())
        self._max = max(self._max, float(distance.max()))
        self._low, self._high = min(self._low, float(reference.min())), max(self._high, float(reference.max()))
        if self.step is not None:
            self._beyond += int((distance > _SAME_STEP * self.step).sum())

    def drift(self) -> Drift:
        """Of all pieces so far.

        Raises:
            DataError: there were none.
        """
        count = int(self._histogram.sum())
        if not count:
            raise DataError(f"{self.name}: nothing to compare: expected at least one input")
        return Drift(
            mean=self._sum / count,
            p50=self._percentile(0.5),
            p99=self._percentile(0.99),
            p999=self._percentile(0.999),
            max=self._max,
            sqnr_db=_decibel(self._signal, self._noise),
            reference_range=self._high - self._low,
            step=self.step,
            beyond_step=None if self.step is None else self._beyond / count,
        )

    def _percentile(self, share: float) -> float:
        counts = np.cumsum(self._histogram)
        position = int(np.searchsorted(counts, share * counts[-1]))
        if position == 0:
            return 0.0  # exactly, or less than any number of full precision
        lower, upper = (np.uint32(each << 16).view(np.float32) for each in (position, position + 1))
        return min(float(lower + upper) / 2, self._max)


def output_drift(
    reference: Mapping[str, np.ndarray],
    other: Mapping[str, np.ndarray],
    step: float | Mapping[str, float] | None = None,
) -> dict[str, Drift]:
    """Drift of each output.

    Args:
        reference: outputs by name, any shape.
        other: the same from elsewhere; further ones are left alone.
        step: of the output quantizers: one for all, or by name.

    Raises:
        ConfigError: an output that ``other`` lacks.
        DataError: shapes that differ, or a value that is not finite.
    """
    drifts = {}
    for name, values in reference.items():
        if name not in other:
            raise ConfigError(f"there is no output {name!r} to compare with; {did_you_mean(name, other)}")
        statistics = DriftStatistics(f"output {name!r}", step.get(name) if isinstance(step, Mapping) else step)
        statistics.add(values, other[name])
        drifts[name] = statistics.drift()
    return drifts


def layer_drift(reference_onnx: Path, other_onnx: Path, inputs: np.ndarray) -> list[LayerDrift]:
    """Drift of a file's layers from those of another file of the same network, such as QDQ from float.

    Compared is what later layers read: behind the Q/DQ pair and, of a fused activation, behind that. Both files run on
    ONNX Runtime without optimization. One input at a time, so memory does not grow with their number.

    Args:
        reference_onnx: the float file.
        other_onnx: the file to judge.
        inputs: ``(N, ...)`` of the dtype that both files take.

    Returns:
        One for each layer that both files have, in the order of ``other_onnx``.

    Raises:
        ConfigError: a file that cannot be run on these inputs, or two that share no layer.
        DataError: no inputs, shapes that differ, or a value that is not finite.
    """
    pairs = matched(layers_of(load(reference_onnx)), layers_of(load(other_onnx)))
    # An input that neither file quantizes is the same by definition.
    pairs = [(one, two) for one, two in pairs if two.op != INPUT or two.step is not None]
    if not pairs:
        raise ConfigError(f"{reference_onnx} and {other_onnx} share no layer: are they of the same network?")
    if not len(inputs):
        raise DataError("nothing to compare: expected at least one input")
    reference = LayerRunner(reference_onnx, [one for one, _ in pairs])
    other = LayerRunner(other_onnx, [two for _, two in pairs])
    gathered = [DriftStatistics(f"layer {two.name}", two.step) for _, two in pairs]
    for value in inputs:
        expected, found = reference.layer_outputs(value[None]), other.layer_outputs(value[None])
        for statistics, (one, two) in zip(gathered, pairs, strict=True):
            statistics.add(expected[one.name], found[two.name])
    return [LayerDrift(two.name, two.op, each.drift()) for each, (_, two) in zip(gathered, pairs, strict=True)]


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
