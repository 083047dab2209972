"""Ranges of tensors from a stream of samples, in memory that does not grow with their number.

Why not torchao's ``HistogramObserver`` (0.18) for percentile and MSE: it skips infinities with a warning, which this
package must refuse; it redistributes old counts by interpolation whenever its range grows, so the result depends on the
order of the samples; it has no percentiles; and its search scores bins of equal width, not the codes of a format with a
zero point or power-of-two scales.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from depth_distill.quantization.simulate.fake_quant import affine_parameters
from depth_distill.quantization.target.target import CalibratorName, TensorFormat

_BINS = 8192  # at least 8 bins for each of 256 codes: a one-sided range fills a quarter of the bins or more
_MOMENTUM = 0.01  # torchao's MovingAverageMinMaxObserver
_SHRINK_STEPS = 100


class RangeStatistic(ABC):
    """Collects the samples of one tensor and returns its range."""

    @abstractmethod
    def update(self, sample: Tensor, low: float, high: float) -> None:
        """Add one sample, with its minimum ``low`` and maximum ``high``, both finite."""

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Lowest and highest value; the range need not include zero."""


class MinMax(RangeStatistic):
    """The lowest and the highest value in all samples."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def update(self, sample: Tensor, low: float, high: float) -> None:
        """See the base class."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self) -> tuple[float, float]:
        """See the base class."""
        return self.low, self.high


class MovingAverage(RangeStatistic):
    """Exponential moving average of each sample's minimum and maximum; independent of the batch size."""

    def __init__(self) -> None:
        self.low = self.high = math.nan

    def update(self, sample: Tensor, low: float, high: float) -> None:
        """See the base class."""
        if math.isnan(self.low):
            self.low, self.high = low, high
        self.low += _MOMENTUM * (low - self.low)
        self.high += _MOMENTUM * (high - self.high)

    def range(self) -> tuple[float, float]:
        """See the base class."""
        return self.low, self.high


class Histogram(MinMax):
    """Counts in equal bins over ``[-limit, limit)``.

    ``limit`` is a power of two. To double it, bins are merged in pairs, so the counts are exact in any order of the
    samples.
    """

    def __init__(self) -> None:
        super().__init__()
        self.limit = 2.0**-30
        self.counts = torch.zeros(_BINS, dtype=torch.int64)

    def update(self, sample: Tensor, low: float, high: float) -> None:
        """See the base class."""
        super().update(sample, low, high)
        while max(-low, high) > self.limit:
            merged = torch.zeros_like(self.counts)
            merged[_BINS // 4 : -_BINS // 4] = self.counts.view(-1, 2).sum(dim=1)
            self.counts, self.limit = merged, self.limit * 2
        # Not torch.histc, which rounds values into the neighbouring bin; scaling by a power of two is exact.
        bins = sample.flatten().float().mul(_BINS / 2 / self.limit).floor_().clamp_(max=_BINS // 2 - 1).long()
        self.counts += torch.bincount(bins + _BINS // 2, minlength=_BINS).cpu()

    def edges(self) -> Tensor:
        """Edges of the bins, ``(8193,)`` float64."""
        return torch.linspace(-self.limit, self.limit, _BINS + 1, dtype=torch.float64)


class Percentile(Histogram):
    """The range that excludes ``(100 - percentile) / 2`` percent of all values on each side, to one bin."""

    def __init__(self, percentile: float) -> None:
        super().__init__()
        self.percentile = percentile

    def range(self) -> tuple[float, float]:
        """See the base class."""
        total = int(self.counts.sum())
        below = self.counts.cumsum(dim=0)
        left_out = total * (100 - self.percentile) / 200
        edges = self.edges()
        low = float(edges[int((below <= left_out).sum())])
        high = float(edges[int((below < total - left_out).sum()) + 1])
        return max(low, self.low), min(high, self.high)


class MeanSquaredError(Histogram):
    """The range within min/max with the smallest mean squared error of rounding and clipping.

    The search alternates between fractions of the maximum and of the minimum, and scores the actual codes of the
    format. Each value is taken to be the middle of its bin.
    """

    def __init__(self, tensor_format: TensorFormat) -> None:
        super().__init__()
        self.tensor_format = tensor_format

    def range(self) -> tuple[float, float]:
        """See the base class."""
        filled = self.counts > 0
        centers = ((self.edges()[:-1] + self.edges()[1:]) / 2)[filled]
        weights = self.counts[filled].double()
        fractions = torch.linspace(1.0, 1.0 / _SHRINK_STEPS, _SHRINK_STEPS, dtype=torch.float64)
        lows = torch.full_like(fractions, min(self.low, 0.0))
        highs = torch.full_like(fractions, max(self.high, 0.0))
        if self.tensor_format.symmetric:
            peaks = torch.maximum(-lows, highs) * fractions
            best = self._errors(-peaks, peaks, centers, weights).argmin()
            return max(self.low, -float(peaks[best])), min(self.high, float(peaks[best]))
        # Two rounds: the best maximum depends on the minimum only through the scale.
        for _ in range(2):
            trial = max(self.high, 0.0) * fractions
            highs = trial[self._errors(lows, trial, centers, weights).argmin()].expand_as(fractions)
            trial = min(self.low, 0.0) * fractions
            lows = trial[self._errors(trial, highs, centers, weights).argmin()].expand_as(fractions)
        return float(lows[0]), float(highs[0])

    def _errors(self, lows: Tensor, highs: Tensor, centers: Tensor, weights: Tensor) -> Tensor:
        """Weighted squared error of each candidate range."""
        scale, zero_point = (each[:, None] for each in affine_parameters(lows, highs, self.tensor_format))
        codes = (centers / scale).round() + zero_point
        codes = codes.clamp(self.tensor_format.quant_min, self.tensor_format.quant_max)
        return ((codes - zero_point) * scale - centers).square() @ weights


def range_statistic(name: CalibratorName, tensor_format: TensorFormat, percentile: float) -> RangeStatistic:
    """The statistic of a calibrator."""
    if name == "minmax":
        return MinMax()
    if name == "moving_average":
        return MovingAverage()
    return Percentile(percentile) if name == "percentile" else MeanSquaredError(tensor_format)
