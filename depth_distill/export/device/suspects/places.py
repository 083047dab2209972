"""Faults of place: which number of the device belongs to which pixel, code and image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from depth_distill.export.device.case import Codes
from depth_distill.export.device.evidence import Evidence
from depth_distill.export.device.suspects.base import Kind, Suspect, Trial

_SIGNATURE = 24  # pixels of the longer side of what images are told apart by


@dataclass(frozen=True)
class Flipped(Suspect):
    """The output, or the picture that the device saw, is mirrored or turned by 180 degrees.

    Attributes:
        axes: of ``(C, H, W)``.
    """

    axes: tuple[int, ...] = (2,)
    name: ClassVar[str] = "flipped"
    kind: ClassVar[Kind] = "place"
    title: ClassVar[str] = "the image is flipped:"
    cure: ClassVar[str] = "turn it back where the device's picture is made, or where its output is read"

    @property
    def key(self) -> str:
        """With the way of it."""
        return f"flipped_{self._way.replace(' ', '_')}"

    @property
    def _way(self) -> str:
        return {(2,): "left and right", (1,): "top and bottom", (1, 2): "by 180 degrees"}[self.axes]

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Of the output, or of the picture."""

        def of_input(place: int) -> tuple[Codes, Codes]:
            given = evidence.case.inputs.load(evidence.numbers[place])
            codes = evidence.case.codes_of(evidence.case.source.network, torch.flip(given, self.axes))
            return evidence.device[place], codes

        yield Trial(f"{self._way}, in the output", partial(_moved, evidence, self._back))
        if len(evidence.case.source.shape) == 3:
            yield Trial(f"{self._way}, in the picture", of_input)

    def _back(self, codes: Codes) -> Codes:
        return np.ascontiguousarray(np.flip(codes, self.axes))


@dataclass(frozen=True)
class Transposed(Suspect):
    """Sides of the output are in another order in memory than it is read in."""

    name: ClassVar[str] = "transposed"
    kind: ClassVar[Kind] = "place"
    title: ClassVar[str] = "the layout of the output is another:"
    cure: ClassVar[str] = "read it in that layout (--dump-layout)"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Columns first, and channels last or first."""
        channels = evidence.device.shape[1]
        yield Trial("columns before rows, (C, W, H)", partial(_moved, evidence, _columns_first))
        if channels > 1:
            yield Trial("channels last, read as channels first", partial(_moved, evidence, _channels_last))
            yield Trial("channels first, read as channels last", partial(_moved, evidence, _channels_first))


@dataclass(frozen=True)
class CodesReversed(Suspect):
    """The codes of a pixel are in the reverse order."""

    name: ClassVar[str] = "codes_reversed"
    kind: ClassVar[Kind] = "place"
    title: ClassVar[str] = "the codes of a pixel are in another order:"
    cure: ClassVar[str] = "read the outputs by their names, in the order of the manifest"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """The last one first."""
        if evidence.device.shape[1] > 1:
            yield Trial("the last one first", partial(_moved, evidence, lambda codes: codes[::-1]))


@dataclass(frozen=True)
class OtherOrder(Suspect):
    """Outputs belong to other images than their names say."""

    name: ClassVar[str] = "other_order"
    kind: ClassVar[Kind] = "place"
    title: ClassVar[str] = "outputs belong to other images than their names say:"
    cure: ClassVar[str] = "give the device the images in the order of their names, or name its outputs after them"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Each output goes to the image whose float codes are nearest, if that is one each."""
        said, wanted = (_signatures(each) for each in (evidence.device, evidence.expected))
        apart = (said**2).sum(1)[:, None] + (wanted**2).sum(1)[None] - 2 * said @ wanted.T
        nearest = apart.argmin(1)
        moved = int((nearest != np.arange(len(nearest))).sum())
        if moved and len(set(nearest.tolist())) == len(nearest):
            by = set(((nearest - np.arange(len(nearest))) % len(nearest)).tolist())
            detail = f"all are off by {by.pop()}" if len(by) == 1 else f"{moved} of {len(nearest)} are exchanged"
            yield Trial(detail, lambda place: (evidence.device[place], evidence.expected[nearest[place]]))


def _moved(evidence: Evidence, back: Callable[[Codes], Codes], place: int) -> tuple[Codes, Codes]:
    return back(evidence.device[place]), evidence.expected[place]


def _columns_first(codes: Codes) -> Codes:
    channels, height, width = codes.shape
    return np.ascontiguousarray(codes.reshape(channels, width, height).swapaxes(1, 2))


def _channels_last(codes: Codes) -> Codes:
    channels, height, width = codes.shape
    return np.ascontiguousarray(np.moveaxis(codes.reshape(height, width, channels), -1, 0))


def _channels_first(codes: Codes) -> Codes:
    return np.ascontiguousarray(np.moveaxis(codes, 0, -1)).reshape(codes.shape)


def _signatures(codes: Codes) -> Codes:
    """Every image as a few numbers, ``(N, K)``: means of square blocks."""
    every = max(1, max(codes.shape[2:]) // _SIGNATURE)
    small = torch.nn.functional.avg_pool2d(torch.from_numpy(codes), min(every, *codes.shape[2:]))
    return np.asarray(small.flatten(1).numpy(), np.float64)
