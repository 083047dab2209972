"""Faults of the input: the device saw another picture than the float network; each is tried by running it on that."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as resizing
from torchvision.transforms.v2.functional import InterpolationMode

from depth_distill.data.network_inputs import PixelFormat
from depth_distill.data.placement import Placement, Size, aspect_differs
from depth_distill.data.reading import read_image, read_size
from depth_distill.data.transforms import bar_colour
from depth_distill.export.device.case import Codes
from depth_distill.export.device.evidence import Evidence
from depth_distill.export.device.suspects.base import Kind, Suspect, Trial
from depth_distill.types import ResizeMode

_IMAGENET, _UNIT, _RAW = (PixelFormat.named(name) for name in ("imagenet", "unit", "raw"))
_SYMMETRIC = PixelFormat((0.5,) * 3, (0.5,) * 3)
_INTERPOLATIONS = {
    "nearest pixels, as of OpenCV": InterpolationMode.NEAREST,
    "nearest pixels, as of Pillow": InterpolationMode.NEAREST_EXACT,
    "bilinear without antialiasing": InterpolationMode.BILINEAR,
}
_MODES: dict[str, ResizeMode] = {
    "cut to the shape of the input around the centre": "crop",
    "stretched to the shape of the input": "stretch",
    "whole, with bars of the mean colour on two sides": "pad",
}


@dataclass(frozen=True)
class Colours(Suspect):
    """Red and blue are exchanged."""

    name: ClassVar[str] = "colour_order"
    kind: ClassVar[Kind] = "input"
    title: ClassVar[str] = "red and blue are exchanged in the device's input:"
    cure: ClassVar[str] = "give the device the colours in the other order (RGB or BGR; a switch of most tool chains)"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Behind the normalization, and before it."""
        if len(evidence.case.source.shape) != 3 or evidence.case.source.shape[0] != 3:
            return
        yield _given("of what is normalized", evidence, lambda index: evidence.case.inputs.load(index).flip(0))
        if evidence.case.inputs.takes_pictures:
            pixels = evidence.case.pixels
            yield _given(
                "before mean and std of red, green and blue",
                evidence,
                lambda index: pixels(evidence.case.inputs.picture(index).flip(0)),
            )


@dataclass(frozen=True)
class MissingNormalization(Suspect):
    """Pixels come in without a part of their normalization."""

    name: ClassVar[str] = "missing_normalization"
    kind: ClassVar[Kind] = "input"
    title: ClassVar[str] = "the device's input is not normalized:"
    cure: ClassVar[str] = "give the tool chain the mean and std of the network, or export with --uint8-input"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Without mean and std, and without any."""
        asked = evidence.case.pixels
        if not asked.raw and (asked.mean, asked.std) != (_UNIT.mean, _UNIT.std):
            yield from _formatted("pixels / 255, without mean and std", evidence, _UNIT)
        if not asked.raw:
            yield from _formatted("pixels from 0 to 255", evidence, _RAW)


@dataclass(frozen=True)
class DoubledNormalization(Suspect):
    """Pixels are normalized by the host, and again by what the tool chain or the network does."""

    name: ClassVar[str] = "doubled_normalization"
    kind: ClassVar[Kind] = "input"
    title: ClassVar[str] = "the device's input is normalized twice:"
    cure: ClassVar[str] = "normalize once: leave it out on the host, or in the tool chain's settings"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """As asked for twice, or before a network that does it by itself."""
        inputs, asked = evidence.case.inputs, evidence.case.pixels
        if not inputs.takes_pictures:
            return
        if asked.raw:
            yield from _formatted("pixels / 255, to a network that takes 0 to 255", evidence, _UNIT)
            yield from _formatted("by mean and std, to a network that takes 0 to 255", evidence, _IMAGENET)
            return
        yield _given("divided by 255 twice", evidence, lambda index: _again(asked, inputs.load(index) / 255))
        if (asked.mean, asked.std) != (_UNIT.mean, _UNIT.std):
            yield _given("by mean and std, twice", evidence, lambda index: _again(asked, inputs.load(index)))


@dataclass(frozen=True)
class OtherNormalization(Suspect):
    """Pixels are normalized with another mean and deviation."""

    name: ClassVar[str] = "other_normalization"
    kind: ClassVar[Kind] = "input"
    title: ClassVar[str] = "the device's input is normalized otherwise:"
    cure: ClassVar[str] = "give the tool chain the mean and std of the network"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """To [-1, 1], and with ImageNet's mean and deviation."""
        asked = evidence.case.pixels
        if asked.raw:
            return
        for words, other in (("to [-1, 1]", _SYMMETRIC), ("with ImageNet's mean and std", _IMAGENET)):
            if (asked.mean, asked.std) != (other.mean, other.std):
                yield from _formatted(words, evidence, other)


@dataclass(frozen=True)
class OtherResize(Suspect):
    """Pictures come to the size of the input by another interpolation, or cut, padded or stretched otherwise."""

    name: ClassVar[str] = "other_resize"
    kind: ClassVar[Kind] = "input"
    title: ClassVar[str] = "the device's pictures are resized otherwise:"
    cure: ClassVar[str] = (
        "resize them as in training: bilinear with antialiasing, and cropped, padded or stretched alike "
        "(input.resize.mode in the manifest of a bundle)"
    )

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Nearest pixels, bilinear without antialiasing; cut, stretched or padded, where that makes a difference."""
        case = evidence.case
        if not case.inputs.takes_pictures:
            return
        size: Size = (case.source.shape[1], case.source.shape[2])
        sizes = {read_size(case.inputs.files[evidence.numbers[place]]) for place in evidence.probed}
        if sizes == {size}:
            return
        asked, mean = case.inputs.resize, case.pixels.mean

        def trial(
            words: str,
            mode: ResizeMode = asked,
            bars: Sequence[float] = mean,
            interpolation: InterpolationMode = InterpolationMode.BILINEAR,
            antialias: bool = True,
        ) -> Trial:
            def made(index: int) -> Tensor:
                picture = read_image(case.inputs.files[index])
                placement = Placement.of((picture.shape[1], picture.shape[2]), size, mode)
                small = resizing.resize(picture, list(placement.inner), interpolation, antialias=antialias)
                return case.pixels(placement.place(small, bar_colour(bars)))

            return _given(words, evidence, made)

        for words, interpolation in _INTERPOLATIONS.items():
            yield trial(words, interpolation=interpolation, antialias=False)
        if any(aspect_differs(each, size) for each in sizes):
            for words, mode in _MODES.items():
                if mode != asked:
                    yield trial(words, mode)
            if asked != "pad" or any(mean):
                yield trial("whole, with black bars on two sides", "pad", bars=(0.0, 0.0, 0.0))


def _given(words: str, evidence: Evidence, made: Callable[[int], Tensor]) -> Trial:
    """What the float network says for another input, made from the number of an image."""

    def pair(place: int) -> tuple[Codes, Codes]:
        case = evidence.case
        return evidence.device[place], case.codes_of(case.source.network, made(evidence.numbers[place]))

    return Trial(words, pair)


def _formatted(words: str, evidence: Evidence, other: PixelFormat) -> Iterator[Trial]:
    inputs, order = evidence.case.inputs, evidence.case.pixels.colour_order
    if inputs.takes_pictures:
        pixels = PixelFormat(other.mean, other.std, other.raw, order)
        yield _given(words, evidence, lambda index: pixels(inputs.picture(index)))


def _again(asked: PixelFormat, values: Tensor) -> Tensor:
    """What is normalized, ``(3, H, W)`` in the colour order of the format, normalized by it once more."""
    order = -1 if asked.colour_order == "BGR" else 1
    mean, std = (torch.tensor(each[::order]).view(3, 1, 1) for each in (asked.mean, asked.std))
    return (values - mean) / std
