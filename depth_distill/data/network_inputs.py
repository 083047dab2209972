"""A folder of pictures, or of arrays, as inputs of any network: no ground truth, no config."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from depth_distill.data.array_files import read_array
from depth_distill.data.dataset import DepthDataset
from depth_distill.data.image_folder import ImageFolder
from depth_distill.data.placement import Size, resize_note
from depth_distill.data.reading import IMAGE_EXTENSIONS
from depth_distill.data.transforms import JointResize, Normalize
from depth_distill.errors import ConfigError, DataError
from depth_distill.types import IMAGENET_MEAN, IMAGENET_STD, ResizeMode

ARRAY_EXTENSION = ".npy"
Normalization = Literal["imagenet", "unit", "raw"]
ColourOrder = Literal["RGB", "BGR"]
_WORDS = {"crop": "cropped", "pad": "padded", "stretch": "stretched"}


@dataclass(frozen=True)
class PixelFormat:
    """How 8-bit pixels become the input of a network.

    Attributes:
        mean: mean of red, green and blue, in [0, 1]; subtracted from pixel / 255.
        std: standard deviation of red, green and blue, in [0, 1].
        raw: whether pixels stay as they are, 0 to 255.
        colour_order: order of the colours in the input.

    Raises:
        ConfigError: a mean or deviation that cannot be one of pixels in [0, 1].
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    raw: bool = False
    colour_order: ColourOrder = "RGB"

    def __post_init__(self) -> None:
        for key, values in (("mean", self.mean), ("std", self.std)):
            for value in values:
                if not 0 <= value <= 1 or (key == "std" and value == 0):
                    raise ConfigError(
                        f"{key}: received {value:g}, expected a number for pixels in [0, 1]; of pixels up to 255, "
                        f"{value:g} / 255 = {value / 255:.4g}"
                    )

    @classmethod
    def named(cls, normalization: Normalization, colour_order: ColourOrder = "RGB") -> "PixelFormat":
        """``imagenet``: pixel / 255, ImageNet's mean and deviation; ``unit``: pixel / 255; ``raw``: 0 to 255."""
        if normalization == "imagenet":
            return cls(IMAGENET_MEAN, IMAGENET_STD, colour_order=colour_order)
        return cls(raw=normalization == "raw", colour_order=colour_order)

    def __call__(self, image: Tensor) -> Tensor:
        """The input, ``(3, H, W)`` float32, from an image ``(3, H, W)`` uint8 RGB."""
        values = image.float() if self.raw else Normalize(self.mean, self.std)(image)
        return values.flip(0) if self.colour_order == "BGR" else values

    def __str__(self) -> str:
        if self.raw:
            return f"{self.colour_order}, 0 to 255"
        if (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            return f"{self.colour_order} / 255, ImageNet mean and std"
        if (self.mean, self.std) == ((0.0,) * 3, (1.0,) * 3):
            return f"{self.colour_order} / 255"
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{self.colour_order} / 255, mean {mean}, std {std} (of red, green, blue)"


class NetworkInputs:
    """The inputs of a network in a folder, sorted by path: JPEG and PNG pictures, or ``.npy`` arrays.

    Pictures are resized as in every data set of this package, see :class:`~depth_distill.data.transforms.JointResize`.
    Arrays are fed as they are, and so must have the shape of the input, with or without a batch of 1.

    Args:
        folder: the folder; subfolders are searched, too.
        shape: shape of one input, without the batch.
        name: name of the input, for messages.
        pixels: how pixels become the input.
        resize: how pictures of another aspect ratio come to the size of the input.

    Raises:
        DataError: the folder does not exist, has neither pictures nor arrays, or has both.
        ConfigError: there are pictures, but the input is no colour image.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, ...], name: str, pixels: PixelFormat, resize: ResizeMode = "crop"
    ) -> None:
        self.folder, self.shape, self.name, self.pixels, self.resize = folder, shape, name, pixels, resize
        if not folder.is_dir():
            raise DataError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}: expected a folder")
        found = ImageFolder(folder, IMAGE_EXTENSIONS)
        self._pictures: DepthDataset = found
        self._arrays = sorted(
            path for path in folder.rglob(f"*{ARRAY_EXTENSION}") if path.is_file() and not path.name.startswith(".")
        )
        pictures = found.list_samples()
        if pictures and self._arrays:
            raise DataError(
                f"{folder} has {len(pictures)} pictures and {len(self._arrays)} .npy arrays: which are the inputs? "
                "Put the inputs into a folder of their own"
            )
        if not pictures and not self._arrays:
            raise DataError(f"{folder}: no inputs found; expected .jpg, .jpeg, .png or .npy files")
        if pictures and (len(shape) != 3 or shape[0] != 3):
            raise ConfigError(
                f"the input {name!r} is {_text(shape)}, and pictures are 3 x H x W: save inputs as .npy arrays of that "
                "shape, as the network takes them"
            )

    @property
    def takes_pictures(self) -> bool:
        """Whether the inputs are pictures."""
        return not self._arrays

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The file of each input."""
        return tuple(self._arrays) or tuple(Path(self._pictures.source(k)) for k in range(len(self._pictures)))

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> Tensor:
        """One input in the shape of the network's, float32.

        Raises:
            DataError: the file is damaged, has another shape, or has NaN or infinity.
        """
        if self.takes_pictures:
            return self.pixels(self.picture(index))
        path = self.files[index]
        array = read_array(path)
        if array.shape not in (self.shape, (1, *self.shape)) or array.dtype.kind not in "iufb":
            raise DataError(
                f"{path}: received {array.dtype} of shape {_text(array.shape)}, expected numbers of shape "
                f"{_text(self.shape)}, as the input {self.name!r} takes them"
            )
        values = torch.from_numpy(array.reshape(self.shape)).float()
        if not bool(values.isfinite().all()):
            raise DataError(f"{path}: has NaN or infinity: repair or leave out this file")
        return values

    def picture(self, index: int) -> Tensor:
        """One picture in the size of the input, ``(3, H, W)`` uint8 RGB, where the inputs are pictures.

        Raises:
            DataError: the file is damaged.
        """
        return self.resized(self._pictures, index, self.resize)

    def resized(self, pictures: DepthDataset, index: int, mode: ResizeMode) -> Tensor:
        """A picture as it would be with this mode, ``(3, H, W)`` uint8 RGB."""
        return pictures.at_size(index, JointResize(self._size, mode, self.pixels.mean)).image

    def note(self, option: str | None = "data.resize:") -> str:
        """What becomes of pictures of another aspect ratio than the input's, in a line; empty where there are none.

        Args:
            option: see :func:`~depth_distill.data.placement.resize_note`.
        """
        return resize_note(self._pictures.image_sizes(), self._size, self.resize, option) if self.takes_pictures else ""

    @property
    def _size(self) -> Size:
        return self.shape[1], self.shape[2]

    def __str__(self) -> str:
        if self.takes_pictures:
            how = _WORDS[self.resize] if self.note() else "resized"
            return f"{len(self)} pictures, {how} to {self.shape[1]} x {self.shape[2]} (H x W): {self.pixels}"
        return f"{len(self)} arrays of shape {_text(self.shape)}, fed as they are"


class DatasetInputs(NetworkInputs):
    """The images of a data set as inputs of a network, in its order.

    Args:
        dataset: the data set; its ground truth is not used.
        shape: shape of one input, without the batch.
        name: name of the input, for messages.
        pixels: how pixels become the input.
        resize: how images of another aspect ratio come to the size of the input.

    Raises:
        ConfigError: the input is no colour image.
    """

    def __init__(
        self,
        dataset: DepthDataset,
        shape: tuple[int, ...],
        name: str,
        pixels: PixelFormat,
        resize: ResizeMode = "crop",
    ) -> None:
        self.shape, self.name, self.pixels, self.resize = shape, name, pixels, resize
        self._pictures, self._arrays = dataset, []
        if len(shape) != 3 or shape[0] != 3:
            raise ConfigError(f"the input {name!r} is {_text(shape)}, and pictures are 3 x H x W")


def divide(count: int, calibration: int, held_out: int) -> tuple[list[int], list[int]]:
    """Which of ``count`` inputs to calibrate on, and which to judge on: disjoint, both evenly spaced.

    Where there are too few, one in four is held out.

    Args:
        count: number of inputs.
        calibration: number to calibrate on, at most.
        held_out: number to judge on, at most.

    Raises:
        DataError: there is one input only.
    """
    if count < 2:
        raise DataError(f"received {count} image, expected 2 or more: some to calibrate on, and others to judge on")
    held_out = min(held_out, max(1, count // 4))
    calibration = min(calibration, count - held_out)
    total = calibration + held_out
    chosen = spaced(count, total)
    judged = {round((place + 0.5) * total / held_out - 0.5) for place in range(held_out)}
    return (
        [each for place, each in enumerate(chosen) if place not in judged],
        [each for place, each in enumerate(chosen) if place in judged],
    )


def spaced(count: int, most: int) -> list[int]:
    """At most so many of ``count`` inputs, evenly spaced."""
    total = min(count, most)
    return [round(place * (count - 1) / max(1, total - 1)) for place in range(total)]


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
