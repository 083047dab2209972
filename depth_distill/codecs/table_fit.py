"""Fit a decode table: from what a device returned, and what the float network computes, for the same images.

Isotonic regression (Barlow et al., *Statistical Inference under Order Restrictions*, 1972, by pooling adjacent
violators) of the float network's codes on the device's, code by code. A code that was rarely seen is taken to be off as
its neighbours are. Whether the table helps is judged on images that it was not fitted on.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs.base import HostCodec
from depth_distill.codecs.table import HostTable
from depth_distill.errors import DataError

ENTRIES = 256
GAIN = 0.01
"""A table has to lower the deviation on held-out images by this share: below lies noise."""
_SEEN = 50  # pixels from which on a code counts as seen; its neighbours weigh as much as so many
_NEAR = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1])  # weights of neighbours
_FOLDS = 5
_MOST_PIXELS = 4_000_000  # that are sorted; of more images every second, third, ... pixel is taken


@dataclass(frozen=True)
class Deviations:
    """How far depth from a device's codes is from the float network's, over all pixels that are compared.

    Attributes:
        mean_mm: mean absolute difference in mm.
        relative: mean of the absolute difference over the float network's depth.
    """

    mean_mm: float
    relative: float

    def __str__(self) -> str:
        return f"{self.mean_mm:.1f} mm ({100 * self.relative:.2f} %)"


@dataclass(frozen=True)
class TableFit:
    """A fitted table, and what it does on images that it was not fitted on.

    Attributes:
        codec: the codec behind the table.
        before: deviation without it.
        after: deviation with it; each image is judged with a table that was fitted on others.
        images: number of images.
        seen: number of codes that were seen, per table.
        held_out_m: depth ``(N, 1, H, W)`` in metres of each image, behind a table that was fitted on others.
    """

    codec: HostTable
    before: Deviations
    after: Deviations
    images: int
    seen: tuple[int, ...]
    held_out_m: NDArray[np.float32] = field(repr=False, compare=False)

    @property
    def helps(self) -> bool:
        """Whether the table lowers the deviation by more than noise."""
        return self.after.mean_mm < (1 - GAIN) * self.before.mean_mm

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the table."""
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "images": self.images,
            "codes_seen": list(self.seen),
            "helps": self.helps,
        }


def fit_table(
    codec: HostCodec,
    device: NDArray[np.float32],
    expected: NDArray[np.float32],
    valid: NDArray[np.bool_] | None = None,
    near_is_one: bool = False,
) -> TableFit:
    """The decode table that takes a device's codes to the expected ones.

    Of the expected codes at the pixels with one device code it takes the median, which is that of their depth, too, and
    so the least absolute deviation in metres.

    Args:
        codec: codec of the network.
        device: codes ``(N, C, H, W)`` that the device returned, in [0, 1].
        expected: codes of the float network for the same images, or of ground truth.
        valid: pixels ``(N, 1, H, W)`` that count; all unless given.
        near_is_one: whether 1 is the near end in ``device`` and ``expected``, as 0 is of the codec: the table falls.

    Raises:
        DataError: shapes differ, there are fewer than two images, codes are not finite, or no pixel of an image counts.
    """
    if device.shape != expected.shape or device.ndim != 4 or device.shape[1] != codec.channels:
        raise DataError(
            f"the device's codes are {device.shape} and the expected ones {expected.shape}: both must be "
            f"(N, {codec.channels}, H, W)"
        )
    if len(device) < 2:
        raise DataError(f"received {len(device)} image, expected 2 or more: a table is judged on other images")
    for name, values in (("device", device), ("expected", expected)):
        broken = [index for index, image in enumerate(values) if not bool(np.isfinite(image).all())]
        if broken:
            raise DataError(f"the {name} codes of image {broken[0]} have NaN or infinity ({len(broken)} such images)")
    device, expected = (np.clip(each, 0, 1).astype(np.float32) for each in (device, expected))
    if near_is_one:
        device, expected = 1 - device, 1 - expected
    mask = np.ones((len(device), 1, *device.shape[2:]), bool) if valid is None else valid
    empty = np.flatnonzero(~mask.any((1, 2, 3)))
    if len(empty):
        raise DataError(f"no pixel of image {empty[0]} counts ({len(empty)} such images): leave it out")
    evidence = _Evidence.of(device, expected, mask)

    def tables(images: Sequence[int] | range) -> list[list[float]]:
        return [evidence.table(code, images) for code in range(codec.channels)]

    folds = [range(fold, len(device), _FOLDS) for fold in range(min(_FOLDS, len(device)))]
    true_m = codec.decode(expected)
    after_m = np.empty_like(true_m)
    for fold in folds:
        others = [index for index in range(len(device)) if index not in fold]
        after_m[list(fold)] = HostTable(codec, tables(others)).decode(device[list(fold)])
    every = range(len(device))
    return TableFit(
        HostTable(codec, [each[::-1] if near_is_one else each for each in tables(every)]),
        deviations(codec.decode(device), true_m, mask),
        deviations(after_m, true_m, mask),
        len(device),
        tuple(int(_seen(evidence.counts(code, every)).sum()) for code in range(codec.channels)),
        after_m,
    )


@dataclass(frozen=True)
class _Evidence:
    """For each image and code the entry that each pixel has, and by how much the expected code exceeds the device's."""

    entries: list[list[NDArray[np.int64]]]
    excesses: list[list[NDArray[np.float32]]]

    @classmethod
    def of(cls, device: NDArray[np.float32], expected: NDArray[np.float32], mask: NDArray[np.bool_]) -> "_Evidence":
        every = max(1, device[:, 0].size // _MOST_PIXELS)
        entries, excesses = [], []
        for index, image in enumerate(device):
            planes = [plane[mask[index, 0]][::every] for plane in image]
            wanted = [plane[mask[index, 0]][::every] for plane in expected[index]]
            entries.append([np.rint(plane * (ENTRIES - 1)).astype(np.int64) for plane in planes])
            # The difference, because a code between two entries keeps what it exceeds the nearest by.
            excesses.append([want - plane for want, plane in zip(wanted, planes, strict=True)])
        return cls(entries, excesses)

    def counts(self, code: int, images: Sequence[int] | range) -> NDArray[np.int64]:
        """Number of pixels with each entry."""
        return np.bincount(np.concatenate([self.entries[each][code] for each in images]), minlength=ENTRIES)

    def table(self, code: int, images: Sequence[int] | range) -> list[float]:
        """The table of a code, fitted on some of the images."""
        counts = self.counts(code, images)
        excess = np.concatenate([self.excesses[each][code] for each in images])
        order = np.lexsort((excess, np.concatenate([self.entries[each][code] for each in images])))
        ends = np.cumsum(counts)
        middles = np.clip(
            np.stack([ends - counts + (counts - 1) // 2, ends - counts + counts // 2]), 0, len(excess) - 1
        )
        medians = excess[order][middles].astype(np.float64).mean(0)  # of entries that no pixel has: anything
        return _table(counts.astype(np.float64), medians)


def _table(counts: NDArray[np.float64], medians: NDArray[np.float64]) -> list[float]:
    """A rising table from the number of pixels with each code, and the median of what expected codes exceed it by."""
    codes = np.arange(ENTRIES) / (ENTRIES - 1)
    seen = _seen(counts)
    # What is rarely seen is taken to be off as its neighbours are, and at the ends as the last one that was seen.
    near = np.convolve(counts * seen, _NEAR, "same")[seen]
    usual = np.interp(codes, codes[seen], np.convolve(counts * medians * seen, _NEAR, "same")[seen] / near)
    weights = counts + _SEEN
    fitted = rising(codes + (counts * medians + _SEEN * usual) / weights, weights)
    return [float(each) for each in np.clip(fitted, 0, 1)]


def _seen(counts: NDArray[Any]) -> NDArray[np.bool_]:
    enough = np.clip(counts.sum() / ENTRIES / 8, 1, _SEEN)  # of small images
    return np.asarray(counts >= min(enough, counts.max()))


def rising(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sequence that never falls with the least weighted sum of squared differences from ``values``."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, length = value, weight, 1
        while blocks and blocks[-1][0] > mean:
            before, heavy, long = blocks.pop()
            mean, total, length = (before * heavy + mean * total) / (heavy + total), heavy + total, length + long
        blocks.append((mean, total, length))
    return np.concatenate([np.full(length, mean) for mean, _, length in blocks])


def deviations(
    found_m: NDArray[np.float32], true_m: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
) -> Deviations:
    """How far depth in metres is from what it should be, over the pixels that count; over all without a mask."""
    inside = np.ones(true_m.shape, bool) if mask is None else mask
    apart = np.abs(found_m.astype(np.float64) - true_m)[inside]
    return Deviations(float(1000 * apart.mean()), float((apart / true_m[inside]).mean()))
