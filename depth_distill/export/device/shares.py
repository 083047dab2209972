"""What the difference between a device and the float network consists of, in shares that add up.

Parts are taken away one after the other, and what each explains is by how much the error falls:

1. what a named suspect explains that is no curve: ``place``, ``input``, ``inside``, or codes that were read wrongly;
2. ``clipping``: pixels where the device is at one of the ends of what it returned at all, and the float network more
   than a step beyond it;
3. ``systematic``: a monotone table from the device's code to the float network's
   (:mod:`depth_distill.codecs.table_fit`), for each image fitted on others; pixels at the ends that are still more than
   a step off count as clipping, too;
4. ``spatial``: the mean error at each pixel, for each image over others, times one factor for all;
5. ``per_image``: a factor and an offset of depth, or of the code, for each image;
6. ``step``: half a step of the output in either direction, from the distinct values that it has; of a step ``s`` of
   depth the variance is ``s^2 / 12``. It is estimated, not taken away;
7. ``random``: the rest.

Shares are of the squared error in metres. Millimetres and abs_rel are by how much the mean of the absolute error, and
of the relative one, falls; of what is left in the end, step and random have the same part as of the squared error. All
three columns add up to the whole. A part that does not lower the squared error explains nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs import HostCodec
from depth_distill.codecs.table_fit import TableFit
from depth_distill.export.device.case import Codes
from depth_distill.export.device.suspects.base import Kind

PartName = Literal["systematic", "clipping", "spatial", "per_image", "inside", "step", "random"]
PARTS: tuple[PartName, ...] = ("systematic", "clipping", "spatial", "per_image", "inside", "step", "random")

CREDIT: Mapping[Kind, PartName] = {
    "curve": "systematic",
    "codes": "systematic",
    "place": "spatial",
    "input": "per_image",
    "inside": "inside",
}
"""The part to which a named suspect belongs."""

_MOST_VALUES = 4096  # distinct ones; an output with more has no step to speak of
_FOLDS = 5


@dataclass(frozen=True)
class Part:
    """A part of the error.

    Attributes:
        share: of the squared error in metres, from 0 to 1.
        mm: of the mean absolute error.
        relative: of abs_rel, to the float network.
    """

    share: float
    mm: float
    relative: float


@dataclass(frozen=True)
class Shares:
    """The error and its parts.

    Attributes:
        parts: by name, in the order of :data:`PARTS`; they add up to the whole.
        mean_mm: mean absolute error.
        relative: the same over the float network's depth.
        rms_mm: root of the mean squared error.
        step_mm: root of the mean squared error that rounding to the output's step alone would be.
        distinct: number of distinct values that the device returned, by code.
        mean_map_mm: mean error at each pixel, ``(H, W)``, behind the table and without clipped pixels.
        left_m: error ``(N, 1, H, W)`` behind the table and without clipped pixels.
    """

    parts: Mapping[PartName, Part]
    mean_mm: float
    relative: float
    rms_mm: float
    step_mm: float
    distinct: tuple[int, ...]
    mean_map_mm: NDArray[np.float64]
    left_m: NDArray[np.float64]


def divide_error(
    codec: HostCodec,
    original: tuple[Codes, Codes],
    explained: tuple[Codes, Codes],
    credit: PartName,
    fit: TableFit,
) -> Shares:
    """Divide the error among its parts; see the head of this module.

    Args:
        codec: codec of the network.
        original: codes ``(N, C, H, W)`` of the device and of the float network, 0 near.
        explained: the same with what a named suspect explains taken away; the original where there is none.
        credit: the part to which that belongs.
        fit: the decode table from ``explained``.
    """
    true_m = codec.decode(explained[1]).astype(np.float64)
    first = codec.decode(original[0]).astype(np.float64) - codec.decode(original[1])
    removal = _Removal(first, codec.decode(original[1]).astype(np.float64))
    named = codec.decode(explained[0]).astype(np.float64) - true_m
    removal.to(credit, named)
    steps = [_steps(explained[0][:, k], fit.codec.tables[k]) for k in range(codec.channels)]
    beyond, far = np.zeros(first.shape, bool), np.zeros(first.shape, bool)
    for k, (low, high, width) in enumerate(steps):
        device, wanted = explained[0][:, k : k + 1], explained[1][:, k : k + 1]
        step = width[:, None]
        beyond |= ((device <= low) & (wanted < low - step)) | ((device >= high) & (wanted > high + step))
        apart = np.abs(_through(device, fit.codec.tables[k]) - wanted) > step
        far |= ((device <= low) | (device >= high)) & apart
    removal.to("clipping", np.where(beyond, 0.0, removal.error))
    removal.to("systematic", np.where(beyond, 0.0, fit.held_out_m - true_m))
    removal.to("clipping", np.where(far, 0.0, removal.error))
    left = removal.error
    removal.to("spatial", _without_mean_map(left))
    between = removal.error
    removal.to("per_image", _without_line(between, true_m))
    if codec.channels == 1:  # a line of codes is none of depth, unless depth is linear in them
        removal.to("per_image", np.where(beyond | far, 0.0, between + _line_of_codes(codec, explained, fit)))
    slopes = codec.slopes_with(np, explained[1]).astype(np.float64)
    variance = sum((width * slopes[:, k]) ** 2 / 12 for k, (_, _, width) in enumerate(steps))
    return removal.divided(float(np.mean(variance)), tuple(_distinct(original[0])), left)


class _Removal:
    """An error of which part after part is taken away."""

    def __init__(self, error: NDArray[np.float64], true_m: NDArray[np.float64]) -> None:
        self.error, self.true_m = error, true_m
        self.parts: dict[PartName, Part] = {name: Part(0.0, 0.0, 0.0) for name in PARTS}
        self.now = self.whole = self._measured(error)

    def to(self, name: PartName, error: NDArray[np.float64]) -> None:
        """Go on with what is left of the error, if that is less."""
        after = self._measured(error)
        if after[0] >= self.now[0]:
            return
        # Squares fall; where means rise a little (a few far errors were taken away), the part has none of them.
        after = (after[0], min(after[1], self.now[1]), min(after[2], self.now[2]))
        self._add(name, tuple(before - later for before, later in zip(self.now, after, strict=True)))
        self.error, self.now = error, after

    def divided(self, step: float, distinct: tuple[int, ...], left: NDArray[np.float64]) -> Shares:
        """The parts, of which step has what its variance is of what is left."""
        of_step = min(1.0, step / self.now[0]) if self.now[0] else 0.0
        self._add("step", tuple(each * of_step for each in self.now))
        self._add("random", tuple(each * (1 - of_step) for each in self.now))
        squared, mean_m, relative = self.whole
        return Shares(
            self.parts,
            1000 * mean_m,
            relative,
            1000 * float(np.sqrt(squared)),
            1000 * float(np.sqrt(step)),
            distinct,
            1000 * left.mean((0, 1)),
            left,
        )

    def _add(self, name: PartName, amounts: tuple[float, ...]) -> None:
        squared, mean_m, relative = amounts
        share = squared / self.whole[0] if self.whole[0] else 0.0
        old = self.parts[name]
        self.parts[name] = Part(old.share + share, old.mm + 1000 * mean_m, old.relative + relative)

    def _measured(self, error: NDArray[np.float64]) -> tuple[float, float, float]:
        apart = np.abs(error)
        return float((apart**2).mean()), float(apart.mean()), float((apart / self.true_m).mean())


def _steps(device: Codes, table: tuple[float, ...]) -> tuple[float, float, NDArray[np.float64]]:
    """The lowest and the highest value of a code, and at each pixel the codes ``(N, H, W)`` that became its value."""
    values, which = np.unique(device, return_inverse=True)
    if len(values) > _MOST_VALUES or len(values) < 2:
        return float(values[0]), float(values[-1]), np.zeros(device.shape)
    middles = _through((values[1:] + values[:-1]) / 2, table)
    meant = _through(values, table)
    below = np.concatenate([[meant[0] - (middles[0] - meant[0])], middles])
    above = np.concatenate([middles, [meant[-1] + (meant[-1] - middles[-1])]])
    return float(values[0]), float(values[-1]), np.abs(above - below)[which.reshape(device.shape)]


def _distinct(device: Codes) -> list[int]:
    return [len(np.unique(device[:, k])) for k in range(device.shape[1])]


def _through(codes: NDArray[np.floating], table: tuple[float, ...]) -> NDArray[np.float64]:
    return np.interp(codes, np.linspace(0, 1, len(table)), table)


def _without_mean_map(error: NDArray[np.float64]) -> NDArray[np.float64]:
    count = len(error)
    mapped = np.empty_like(error)
    for fold in range(min(_FOLDS, count)):
        inside = np.arange(count) % _FOLDS == fold
        mapped[inside] = error[~inside].mean(0)
    power = float((mapped**2).sum())
    factor = max(0.0, float((mapped * error).sum()) / power) if power else 0.0
    return error - factor * mapped


def _line_of_codes(codec: HostCodec, explained: tuple[Codes, Codes], fit: TableFit) -> NDArray[np.float64]:
    """What depth changes by, in metres, where the codes of each image get a factor and an offset of their own."""
    codes = _through(explained[0], fit.codec.tables[0])
    bent = codes + (explained[1] - codes) - _without_line(explained[1] - codes, codes)
    return codec.decode(np.clip(bent, 0, 1)).astype(np.float64) - codec.decode(codes)


def _without_line(error: NDArray[np.float64], true_m: NDArray[np.float64]) -> NDArray[np.float64]:
    along = true_m - true_m.mean((1, 2, 3), keepdims=True)
    power = (along**2).sum((1, 2, 3), keepdims=True)
    slope = (along * error).sum((1, 2, 3), keepdims=True) / np.maximum(power, 1e-12)
    return error - error.mean((1, 2, 3), keepdims=True) - slope * along
