"""A decode table with the codes that it was fitted on: what it does, in a sentence and as a picture."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from depth_distill.codecs.table_fit import TableFit
from depth_distill.display.charts import code_curves
from depth_distill.export.interface.decoders import IntegerCodes
from depth_distill.quantization.interface import OutputLayout

_BINS = 64  # of the device's codes, in the picture


@dataclass(frozen=True)
class FittedDecoder:
    """A fit, with what it was made of.

    Attributes:
        fit: the table and what it does on held-out images.
        layout: the outputs that are decoded.
        device: codes ``(N, C, H, W)`` of the device.
        expected: codes that they were fitted to.
        valid: pixels ``(N, 1, H, W)`` that count.
        near_is_one: whether 1 is the near end of them.
        reference: whose codes they were fitted to: ``the float network`` or ``ground truth``.
        integers: 8-bit integers that the device returns for its one output; None where it returns something else.
    """

    fit: TableFit
    layout: OutputLayout
    device: NDArray[np.float32]
    expected: NDArray[np.float32]
    valid: NDArray[np.bool_]
    near_is_one: bool
    reference: str
    integers: IntegerCodes | None = None


def verdict(fitted: FittedDecoder) -> str:
    """What the table does, in one sentence."""
    fit = fitted.fit
    if not fit.helps:
        return (
            f"the device is {fit.before} from {fitted.reference}, and no table lowers that on images that it "
            f"was not fitted on (with one: {fit.after}): nothing is written for the host"
        )
    return f"deviation on images that the table was not fitted on: {fit.before} -> {fit.after}"


def figure(fitted: FittedDecoder) -> Figure:
    """For each code what the device says, and what the float network says there: median, middle 80 %, and the table."""
    codes = fitted.fit.codec
    curves = []
    for k, table in enumerate(codes.tables):
        device, expected = (each[:, k][fitted.valid[:, 0]] for each in (fitted.device, fitted.expected))
        if fitted.near_is_one:  # a codec's 0 is near
            expected = 1 - expected
        centres, spread = _spread(device, expected)
        curves.append((codes.inner.code_names[k], centres, spread, np.array(table)))
    return code_curves(curves, verdict(fitted))


def _spread(
    device: NDArray[np.float32], expected: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of bins of the device's codes that have pixels, and the 10th, 50th and 90th percentile in each."""
    bins = np.clip((device * _BINS).astype(int), 0, _BINS - 1)
    order = np.argsort(bins, kind="stable")
    ends = np.cumsum(np.bincount(bins, minlength=_BINS))
    groups = np.split(expected[order], ends[:-1])
    kept = [place for place, each in enumerate(groups) if each.size]
    percentiles = [np.percentile(groups[place], (10, 50, 90)) for place in kept]
    return (np.array(kept) + 0.5) / _BINS, np.array(percentiles).T
