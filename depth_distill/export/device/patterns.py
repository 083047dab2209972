"""Patterns of an error in the image: at its border, and along the seams of tiles."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BANDS = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16))
"""Distances from the border in pixels, from and up to."""
_PERIODS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320)
_CLEAR = 3.0  # times the error elsewhere: a kitchen network in INT8 has 0.9 times at its border, 1.1 at "seams"
_LEAST_SHARE = 0.2  # of the squared error that a pattern has to be


@dataclass(frozen=True)
class Patterns:
    """How the error depends on the place.

    Attributes:
        bands_mm: mean absolute error in each of :data:`BANDS`, and farther inside.
        border_ratio: of the outer two pixels to the inside.
        border_share: of the squared error, what the outer pixels have more than the inside.
        period: rows or columns between the clearest seams; 0 where there are none.
        axis: ``rows`` or ``columns``.
        seam_ratio: jump of the mean error at the seams over that elsewhere.
    """

    bands_mm: tuple[float, ...]
    border_ratio: float
    border_share: float
    period: int
    axis: str
    seam_ratio: float

    @property
    def at_border(self) -> bool:
        """Whether the error is one of the border."""
        return self.border_ratio > _CLEAR and self.border_share > _LEAST_SHARE

    @property
    def in_tiles(self) -> bool:
        """Whether the error has seams."""
        return self.period > 0 and self.seam_ratio > _CLEAR


def find_patterns(error_m: NDArray[np.float64]) -> Patterns:
    """The patterns of an error ``(N, 1, H, W)`` in metres."""
    height, width = error_m.shape[2:]
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    distance = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns))
    absolute, squared = np.abs(error_m).mean((0, 1)), (error_m**2).mean((0, 1))
    deep = distance >= min(BANDS[-1][1], distance.max())  # small images have no more than their middle
    bands = [(distance >= low) & (distance < high) for low, high in BANDS]
    outer, inside = distance < 2, float(absolute[deep].mean())
    ratio = float(absolute[outer].mean()) / inside if inside else 1.0
    excess = float((squared - squared[deep].mean())[distance < BANDS[-1][0]].sum() / max(squared.sum(), 1e-30))
    period, axis, seams = max((_seams(error_m.mean((0, 1)), axis) for axis in (0, 1)), key=lambda each: each[2])
    bands_mm = [1000 * float(absolute[each].mean()) if each.any() else float("nan") for each in (*bands, deep)]
    return Patterns(tuple(bands_mm), ratio, max(0.0, excess), period, axis, seams)


def _seams(mean_map: NDArray[np.float64], axis: int) -> tuple[int, str, float]:
    """Distance of the clearest seams along an axis, its name, and how clear they are."""
    jumps = np.abs(np.diff(mean_map, axis=axis)).mean(1 - axis)  # jumps[k] lies between k and k + 1
    name, best, clearest = ("rows", "columns")[axis], 0, 1.0
    for period in _PERIODS:
        at = np.arange(len(jumps)) % period == period - 1
        if at.sum() < 2:
            continue
        # All seams are to be clear, not one edge of what the images show.
        ratio = float(np.median(jumps[at])) / max(float(np.median(jumps[~at])), 1e-12)
        if ratio > 1.05 * clearest:  # of 16 and 32, if all of 16 are seams
            best, clearest = period, ratio
    return best, name, clearest
