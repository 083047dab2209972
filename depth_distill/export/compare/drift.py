"""Drift of outputs and layers between two runs of a network.

*Drift* is the deviation of a run from its reference on the same inputs: ``|other - reference|``, in codes or in the
unit of a layer. The reference is the FP32 network unless stated otherwise; drift needs no ground truth.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depth_distill.errors import ConfigError, DataError
from depth_distill.export.backends.layer_runner import LayerRunner
from depth_distill.export.onnx_io.layers import INPUT, layers_of, match_layers
from depth_distill.loading.onnx_importer.files import read_onnx
from depth_distill.suggestions import did_you_mean

_SAME_STEP = 1.01  # 1 % for float rounding, as in parity


@dataclass(frozen=True)
class Drift:
    """Statistics of ``|other - reference|`` over all elements of all inputs.

    Attributes:
        mean: mean.
        p50: median; all percentiles are accurate to 0.4 %.
        p99: 99th percentile.
        p999: 99.9th percentile.
        max: maximum.
        sqnr_db: power of the reference divided by the power of the difference, in dB; infinite without a difference.
        reference_range: maximum minus minimum of the reference.
        step: step of the quantizer, if given.
        beyond_step: share of elements, in [0, 1], that differ by more than a step; None without a step.
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
        """Mean as a share of the reference's range, comparable between layers; the mean itself if the range is 0."""
        return self.mean / self.reference_range if self.reference_range > 0 else self.mean

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "relative": self.relative}


@dataclass(frozen=True)
class LayerDrift:
    """Drift of one layer's output.

    Attributes:
        name: name of the layer.
        op: ONNX operator of the layer.
        drift: drift of its output.
    """

    name: str
    op: str
    drift: Drift

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"name": self.name, "op": self.op, **self.drift.to_dict()}


class DriftStatistics:
    """Accumulates :class:`Drift` over batches, in constant memory.

    Percentiles come from one histogram over all batches, whose bins are the upper 16 bits of a float32: sign, exponent
    and 7 bits of the fraction. The relative width of a bin is at most 1/128, so its middle is within 0.4 % of any value
    in it.

    Args:
        name: name of the compared tensor, for error messages.
        step: step of the quantizer.
    """

    def __init__(self, name: str, step: float | None = None) -> None:
        self.name, self.step = name, step
        self._histogram = np.zeros(1 << 15, np.int64)
        self._sum = self._signal = self._noise = self._max = 0.0
        self._beyond = 0
        self._low, self._high = math.inf, -math.inf

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Add a batch of both runs.

        Raises:
            DataError: the shapes differ, there are no elements, or a value is not finite.
        """
        if reference.shape != other.shape or not reference.size:
            raise DataError(f"{self.name}: the shape is {other.shape}, expected {reference.shape}")
        for side, values in (("the reference", reference), ("the other run", other)):
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
        """Drift over all batches added so far.

        Raises:
            DataError: nothing was added.
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
            return 0.0  # zero, or a subnormal
        lower, upper = (np.uint32(each << 16).view(np.float32) for each in (position, position + 1))
        return min(float(lower + upper) / 2, self._max)


def output_drift(
    reference: Mapping[str, np.ndarray],
    other: Mapping[str, np.ndarray],
    step: float | Mapping[str, float] | None = None,
) -> dict[str, Drift]:
    """Drift of each output.

    Args:
        reference: outputs of the reference by name, of any shape.
        other: outputs of the other run by name; additional ones are ignored.
        step: step of the output quantizers: one for all, or one per name.

    Raises:
        ConfigError: ``other`` lacks an output.
        DataError: the shapes differ, or a value is not finite.
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
    """Drift of the layers of one file from those of another file of the same network, such as QDQ from float.

    The compared tensors are those that later layers read: the output of the Q/DQ pair, and of the activation if it is
    fused. Both files run on ONNX Runtime without optimization, one input at a time, so that memory does not grow with
    the number of inputs.

    Args:
        reference_onnx: the reference, such as the float file.
        other_onnx: the file to compare.
        inputs: ``(N, ...)`` of the dtype that both files take.

    Returns:
        One entry per layer that both files have, in the order of ``other_onnx``.

    Raises:
        ConfigError: a file cannot be run on these inputs, or the files share no layer.
        DataError: there are no inputs, shapes differ, or a value is not finite.
    """
    pairs = match_layers(layers_of(read_onnx(reference_onnx)), layers_of(read_onnx(other_onnx)))
    # An input that is not quantized is identical by definition.
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
