"""How an image of one shape comes into another: cropped, padded or stretched, and the line that says so."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import get_args

from torch import Tensor

from depth_distill.errors import ConfigError
from depth_distill.types import ResizeMode

Size = tuple[int, int]
"""Height and width."""
RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)

_PIXEL = 1 - 1e-6  # a difference that is only the rounding of floats below a pixel counts as one
_PLAIN = 21  # sides of a ratio up to which it is written as such: 16:9, 21:9


@dataclass(frozen=True)
class Placement:
    """Where an image lies in what the network takes.

    Attributes:
        size: (height, width) that the network takes.
        inner: (height, width) that the whole image is resized to: in neither direction below ``size`` where it is
            cropped, in neither above where it is padded, and ``size`` itself where it is stretched.
    """

    size: Size
    inner: Size

    @classmethod
    def of(cls, image: Size, size: Size, mode: ResizeMode) -> "Placement":
        """The placement of an image.

        Where the aspect ratios differ by less than a pixel of the result, every mode stretches.

        Args:
            image: (height, width) of the image.
            size: (height, width) that the network takes.
            mode: what is done where the aspect ratios differ.
        """
        size = (size[0], size[1])
        if mode == "stretch" or not aspect_differs(image, size):
            return cls(size, size)
        ratios = (size[0] / image[0], size[1] / image[1])
        scale = max(ratios) if mode == "crop" else min(ratios)
        return cls(size, (max(1, round(scale * image[0])), max(1, round(scale * image[1]))))

    @property
    def taken(self) -> tuple[slice, slice]:
        """Rows and columns of the resized image that the network sees: all, or the middle of a cropped one."""
        return _middle(self.inner[0], self.size[0]), _middle(self.inner[1], self.size[1])

    @property
    def shown(self) -> tuple[slice, slice]:
        """Rows and columns of what the network takes that show the image: all, or the middle of a padded one."""
        return _middle(self.size[0], self.inner[0]), _middle(self.size[1], self.inner[1])

    def place(self, resized: Tensor, background: Tensor) -> Tensor:
        """What the network takes, ``(C, H, W)``, from an image that was resized to ``inner``.

        Args:
            resized: the image, ``(C, *inner)``.
            background: what stands where there is no image, ``(C, 1, 1)`` or broadcast to that.
        """
        if self.inner == self.size:
            return resized
        (rows, columns), (at_rows, at_columns) = self.taken, self.shown
        cut = resized[..., rows, columns]
        if cut.shape[-2:] == self.size:
            return cut.contiguous()
        placed = background.to(cut.dtype).expand(len(cut), *self.size).clone()
        placed[..., at_rows, at_columns] = cut
        return placed


def require_mode(mode: str, key: str = "data.resize") -> None:
    """Check the name of a mode.

    Args:
        mode: the name.
        key: where it stands, for the message.

    Raises:
        ConfigError: it is none.
    """
    if mode not in RESIZE_MODES:
        raise ConfigError(f"{key}: received {mode!r}, expected one of {', '.join(RESIZE_MODES)}")


def aspect_differs(image: Size, size: Size) -> bool:
    """Whether an image that keeps its aspect ratio ends a pixel or more beside the size: (height, width) of both."""
    (tall, wide), (height, width) = image, size
    beside = (height * wide / tall - width, width * tall / wide - height)
    return max(map(abs, beside)) >= _PIXEL


def resize_note(images: Iterable[Size], size: Size, mode: ResizeMode, option: str | None = "data.resize:") -> str:
    """What becomes of images of another aspect ratio than the network's, in a line; empty where there are none.

    Of several shapes, the one that changes most is named.

    Args:
        images: (height, width) of the images.
        size: (height, width) that the network takes.
        mode: what is done.
        option: how another mode is asked for, in front of its name; None where it is not to be changed.
    """
    sizes = set(images)
    differing = [each for each in sizes if aspect_differs(each, size)]
    if not differing:
        return ""
    image = max(differing, key=lambda each: (_share(each, size), each))
    is_wide = image[1] * size[0] > image[0] * size[1]
    share = f"{100 * _share(image, size):.2g} %"
    longer, shorter = ("width", "height") if is_wide else ("height", "width")
    ends = {"width": "at the sides", "height": "at top and bottom"}
    what, cure = {
        "crop": (f"{share} of the {longer} is cut off {ends[longer]}", "pad or stretch keeps it"),
        "pad": (f"bars fill {share} of the {shorter} {ends[shorter]}", "crop or stretch has none"),
        "stretch": (f"the {longer} is squeezed by {share}", "crop or pad keeps the aspect"),
    }[mode]
    who = "images are" if len(sizes) == 1 else "some images are"
    hint = "as in training" if option is None else f"{option} {cure}"
    return f"{who} {_text(image)}, the network takes {_text(size)}: {what} ({hint})"


def _share(image: Size, size: Size) -> float:
    """Share of one side that is cut off, filled or squeezed."""
    ratio = image[1] * size[0] / (image[0] * size[1])
    return 1 - min(ratio, 1 / ratio)


def _middle(of: int, length: int) -> slice:
    length = min(of, length)
    first = (of - length) // 2
    return slice(first, first + length)


def _text(size: Size) -> str:
    """Aspect ratio, with width and height in pixels."""
    height, width = size
    ratio = Fraction(width, height)
    plain = max(ratio.numerator, ratio.denominator) <= _PLAIN
    words = f"{ratio.numerator}:{ratio.denominator}" if plain else f"{width / height:.3g}:1"
    return f"{words} ({width} x {height})"
