"""The outputs of a device for a folder of images, one file per image, as float32 codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from depth_distill.codecs import HostCodec
from depth_distill.data.array_files import read_arrays
from depth_distill.errors import ConfigError, DataError
from depth_distill.export.compare.tensor_files import HEADERLESS, DumpDtype, DumpLayout, arranged, read_tensor
from depth_distill.export.interface.decoders import IntegerCodes
from depth_distill.quantization.interface import OutputLayout

Unit = Literal["codes", "metres"]

_ROUNDING = 0.01  # that codes of a device may lie beyond [0, 1], as the ends of its output range are rounded
_SUFFIXES = (".npy", ".npz", *HEADERLESS)
# Scale and zero point that make [0, 1] of all codes of a type.
_WHOLE_RANGE = {"uint8": (1 / 255, 0), "int8": (1 / 255, -128), "uint16": (1 / 65535, 0), "int16": (1 / 65535, -32768)}


@dataclass(frozen=True)
class Reading:
    """How files become numbers.

    Attributes:
        dtype: type of files without a header.
        layout: layout of tensors.
        scale: of integers; unless given, that which spreads all codes over [0, 1], where they are codes.
        zero_point: of integers.
        unit: what the numbers are.
        lenient: whether numbers may be in any order and beyond [0, 1]: where they are to be found out, not used.
    """

    dtype: DumpDtype = "float32"
    layout: DumpLayout = "nchw"
    scale: float | None = None
    zero_point: int = 0
    unit: Unit = "codes"
    lenient: bool = False

    def real(self, path: Path, values: NDArray[Any], logits: bool = False) -> NDArray[np.float32]:
        """Floats of floats or integers.

        Args:
            path: the file, for messages.
            values: its numbers.
            logits: whether they are logits, of which no integers are spread over [0, 1].

        Raises:
            DataError: the numbers are integers whose scale is neither given nor usual, or are not finite.
        """
        if values.dtype.kind in "iu":
            scale, zero_point = self.scale, self.zero_point
            if scale is None:
                if values.dtype.name not in _WHOLE_RANGE or logits or self.unit == "metres":
                    what = " of logits" * logits or " of metres" * (self.unit == "metres")
                    raise DataError(f"{path} holds {values.dtype}{what}: say its --scale and --zero-point")
                scale, zero_point = _WHOLE_RANGE[values.dtype.name]
            values = (values.astype(np.int64) - zero_point) * scale
        elif values.dtype.kind != "f":
            raise DataError(f"{path} holds {values.dtype}, expected floats or integers")
        real = values.astype(np.float32)
        if not bool(np.isfinite(real).all()):
            raise DataError(f"{path} has NaN or infinity: run this image on the device again, or leave it out")
        return real


class DeviceOutputs:
    """A folder with what a device returned for some images.

    The file of an image has its name, or its number in the order of names: ``0003.npy``, ``.npz``, ``.raw`` or
    ``.bin``. A network with several outputs has an ``.npz`` with an array of each name, or a folder per image with a
    file of each name.

    Args:
        folder: the folder.
        images: files of the images, in order.
        layout: outputs of the network.
        size: height and width of the outputs.
        reading: how files become numbers.

    Raises:
        DataError: the folder does not exist, lacks an image, has two files of one, or one of none.
    """

    def __init__(
        self,
        folder: Path,
        images: Sequence[Path],
        layout: OutputLayout,
        size: tuple[int, int],
        reading: Reading,
    ) -> None:
        self.outputs = dict(zip(layout.names, layout.channels, strict=True))
        self.logits, self.size, self.reading = layout.logits, size, reading
        self._types: dict[str, str] = {}  # of numbers that were read, by output
        if not folder.is_dir():
            raise DataError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}: expected a folder")
        entries = {
            path: path.name if path.is_dir() else path.stem
            for path in sorted(folder.iterdir())
            if not path.name.startswith(".") and (path.is_dir() or path.suffix in _SUFFIXES)
        }
        self.places: list[Path] = []
        numbers = [f"{index:04d}" for index in range(len(images))]
        stems = [each.stem for each in images]
        if len(set(stems)) < len(stems):
            twice = next(each for each in stems if stems.count(each) > 1)
            raise DataError(f"two images are called {twice!r}: which of them is meant in {folder} is not known")
        by_name = any(name in stems for name in entries.values())
        for stem, number in zip(stems, numbers, strict=True):
            name = stem if by_name else number
            found = [path for path, key in entries.items() if key == name]
            if len(found) != 1:
                have = " and ".join(path.name for path in found) or "nothing"
                raise DataError(
                    f"{folder} has {have} for the image {stem}: expected one file, {name}.npy, .npz or .raw, or a "
                    f"folder {name} with one per output"
                )
            self.places.append(found[0])
        strange = [path for path in entries if path not in self.places]
        if strange:
            raise DataError(
                f"{strange[0]} belongs to no image ({len(strange)} such): files are named after the images, or "
                "numbered from 0000"
            )

    def __len__(self) -> int:
        return len(self.places)

    @property
    def integers(self) -> IntegerCodes | None:
        """What the 8-bit integers that were read stand for; None of several outputs, metres, and other numbers."""
        (kind, *others) = self._types.values() or ("nothing",)
        if others or kind not in ("uint8", "int8") or self.reading.unit == "metres":
            return None
        scale, zero_point = self.reading.scale, self.reading.zero_point
        if scale is None:
            scale, zero_point = _WHOLE_RANGE[kind]
        return IntegerCodes(scale, zero_point, kind == "int8")

    def place(self, index: int) -> str:
        """The file or folder of an image, for messages."""
        return str(self.places[index])

    def read(self, index: int) -> dict[str, NDArray[np.float32]]:
        """Every output of one image by name, ``(C, H, W)``.

        Raises:
            DataError: a file is missing or damaged, or has another size, another type than the others, or no codes.
        """
        place = self.places[index]
        if place.is_dir():
            return {name: self._file(self._within(place, name), name) for name in self.outputs}
        if place.suffix == ".npz":
            return self._archive(place)
        if len(self.outputs) > 1:
            raise DataError(
                f"{place} is one tensor, and the network has the outputs {', '.join(self.outputs)}: expected an .npz "
                f"with these names, or a folder {place.stem} with a file of each"
            )
        return {name: self._file(place, name) for name in self.outputs}

    def _within(self, folder: Path, name: str) -> Path:
        found = [path for suffix in _SUFFIXES if suffix != ".npz" and (path := folder / f"{name}{suffix}").is_file()]
        if not found and len(self.outputs) == 1:
            found = [path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES and path.suffix != ".npz"]
        if len(found) != 1:
            raise DataError(f"{folder} has {len(found)} files of the output {name!r}: expected one, {name}.npy or .raw")
        return found[0]

    def _archive(self, path: Path) -> dict[str, NDArray[np.float32]]:
        arrays = read_arrays(path)
        if len(self.outputs) == 1 and len(arrays) == 1:
            arrays = dict(zip(self.outputs, arrays.values(), strict=True))
        missing = [name for name in self.outputs if name not in arrays]
        if missing:
            raise DataError(f"{path} has no array {missing[0]!r}; it has {', '.join(arrays) or 'none'}")
        return {name: self._map(path, arrays[name], name) for name in self.outputs}

    def _file(self, path: Path, name: str) -> NDArray[np.float32]:
        return self._map(path, read_tensor(path, self._shape(name), self.reading.dtype), name)

    def _map(self, path: Path, values: NDArray[Any], name: str) -> NDArray[np.float32]:
        kind = "floats" if values.dtype.kind == "f" else values.dtype.name
        if self.reading.lenient:
            values = values.ravel()
        arrangement = arranged(path, values, self._shape(name), self.reading.layout)
        real = self.reading.real(path, arrangement, self.logits)
        if self._types.setdefault(name, kind) != kind:
            raise DataError(f"{path} holds {kind}, but others {self._types[name]}: expected one type in all files")
        return np.asarray(real[0])

    def _shape(self, name: str) -> tuple[int, ...]:
        return (1, self.outputs[name], *self.size)


def require_readable(codec: HostCodec, unit: Unit) -> None:
    """Require numbers of this unit to say what the codes were.

    Raises:
        ConfigError: they are metres of several codes.
    """
    if unit == "metres" and codec.channels > 1:
        raise ConfigError(
            f"a table is fitted on codes, and metres do not say which of {codec.channels} codes was off: give the "
            "device's codes"
        )


def codes_of(
    said: Mapping[str, NDArray[np.float32]], codec: HostCodec, layout: OutputLayout, reading: Reading, place: str | Path
) -> NDArray[np.float32]:
    """Codes ``(C, H, W)`` that a device returned for an image.

    Args:
        said: outputs by name, ``(C, H, W)``: codes, their logits, or metres, which are encoded. Metres of a network
            that stops before its sigmoid are metres, too.
        codec: codec of the float network.
        layout: its outputs.
        reading: what the numbers are.
        place: where they are from, for messages.

    Raises:
        DataError: codes are not in [0, 1], unless the reading is lenient.
    """
    if reading.unit == "metres":
        return codec.encode(said[layout.names[0]])
    tensors = {name: torch.from_numpy(said[name])[None] for name in layout.names}
    codes = np.asarray(layout.codes(tensors)[0].numpy(), np.float32)
    if not reading.lenient:
        require_codes(place, codes)
    return codes


def require_codes(place: str | Path, codes: NDArray[np.float32]) -> None:
    """Require what a device returned to be codes.

    Raises:
        DataError: numbers are not in [0, 1].
    """
    if codes.min() < -_ROUNDING or codes.max() > 1 + _ROUNDING:
        raise DataError(
            f"{place} has values from {codes.min():.4g} to {codes.max():.4g}, expected codes in [0, 1]: say "
            "--device-unit metres if they are depth, or the --scale and --zero-point of integers"
        )
