"""Tensors dumped on a device, read as the float32 outputs of a file's layers."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from depth_distill.data.reading import read_array
from depth_distill.errors import DataError
from depth_distill.export.onnx_io.layers import OnnxLayer
from depth_distill.suggestions import did_you_mean

DumpDtype = Literal["float32", "float16", "int8", "uint8", "int16", "uint16"]
DumpLayout = Literal["nchw", "nhwc"]

_RAW = (".raw", ".bin")
_SUFFIXES = (".npy", *_RAW)


class DumpFolder:
    """One folder per image (``0000``, ``0001``, ...) with one file per layer.

    Files are named after their layers; characters other than letters and digits may be replaced by ``_``, as QNN does.
    ``.npy`` files store their own type; ``.raw`` and ``.bin`` files are headerless little-endian numbers. Integers are
    codes, dequantized with the scale and zero point of their layer; int8 codes of a uint8 tensor are shifted by 128.

    Args:
        folder: folder of the dumps.
        layers: layers that there may be dumps of.
        dtype: type of headerless files.
        layout: layout of feature maps; TFLite and many chips use channels last.

    Raises:
        DataError: the folder does not exist, has no folder of an image, or has a file that belongs to no layer.
    """

    def __init__(
        self, folder: Path, layers: Sequence[OnnxLayer], dtype: DumpDtype = "float32", layout: DumpLayout = "nchw"
    ) -> None:
        self.folder = folder
        self.dtype, self.layout = np.dtype(dtype).newbyteorder("<"), layout
        images = sorted(each for each in folder.glob("[0-9]" * 4) if each.is_dir())
        if not images:
            raise DataError(f"{folder} has no folder 0000, 0001 and so on: expected one per image")
        names = [layer.name for layer in layers]
        keys = Counter(map(_key, names))
        by_key = {_key(name): name for name in names if keys[_key(name)] == 1}
        self._files: dict[int, dict[str, Path]] = {}
        for image in images:
            files = self._files.setdefault(int(image.name), {})
            for path in sorted(each for each in image.iterdir() if each.suffix in _SUFFIXES):
                name = path.stem if path.stem in names else by_key.get(_key(path.stem))
                if name is None:
                    raise DataError(f"{path} belongs to no layer of the file; {did_you_mean(path.stem, names)}")
                if name in files:
                    raise DataError(f"{path} and {files[name]} belong to the same layer, {name}: delete one of them")
                files[name] = path
        if not any(self._files.values()):
            raise DataError(f"{folder} has no {', '.join(_SUFFIXES)} file of any layer")

    @property
    def images(self) -> tuple[int, ...]:
        """Numbers of the dumped images."""
        return tuple(self._files)

    def read(self, image: int, layer: OnnxLayer, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """The dump of a layer as ``shape``; None if there is none.

        Raises:
            DataError: the file is damaged or has another number of values, or holds codes of a layer without a scale.
        """
        path = self._files[image].get(layer.name)
        if path is None:
            return None
        values = self._headerless(path, shape) if path.suffix in _RAW else _array(path)
        if values.dtype.kind in "iu":
            if layer.quant_params is None:
                raise DataError(
                    f"{path} has {values.dtype} codes, but {layer.name} has no scale in the file: dump floats"
                )
            values = layer.quant_params.real(values)
        return self._arranged(path, values.astype(np.float32), shape)

    def _headerless(self, path: Path, shape: tuple[int, ...]) -> NDArray[np.generic]:
        count, size = int(np.prod(shape)), path.stat().st_size
        expected = count * self.dtype.itemsize
        if size != expected:
            bytes_each = size / count
            cure = "give a dtype of that size with --dump-dtype" if bytes_each in (1, 2, 4) else "dump the whole tensor"
            raise DataError(
                f"{path} has {size} bytes, expected {expected} ({count} values of {self.dtype.name}): "
                f"{bytes_each:g} per value; {cure}"
            )
        return np.fromfile(path, self.dtype)

    def _arranged(self, path: Path, values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        stored = shape
        if self.layout == "nhwc" and len(shape) == 4:
            stored = (shape[0], *shape[2:], shape[1])
        flat = values.ndim == 1
        if values.size != np.prod(stored) or not (flat or _without_ones(values.shape) == _without_ones(stored)):
            raise DataError(
                f"{path} has the shape {values.shape}, expected {stored} ({self.layout}; see --dump-layout)"
            )
        values = values.reshape(stored)
        return values if stored == shape else np.moveaxis(values, -1, 1)


def _array(path: Path) -> NDArray[np.generic]:
    values = read_array(path)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise DataError(f"{path} holds no array of numbers: dump one tensor per file")
    return values


def _key(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "_", name)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side for side in shape if side != 1)
