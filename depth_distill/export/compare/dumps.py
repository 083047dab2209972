"""Tensors that a device dumped, as the float32 that the layers of a file put out."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from depth_distill.errors import DataError
from depth_distill.export.onnx_io.layers import Layer
from depth_distill.quantization.target.validated import nearest

DumpDtype = Literal["float32", "float16", "int8", "uint8", "int16", "uint16"]
DumpLayout = Literal["nchw", "nhwc"]

_RAW = (".raw", ".bin")
_SUFFIXES = (".npy", *_RAW)


class DumpFolder:
    """One folder an image, ``0000`` and so on, with one file a layer.

    Files are called after their layers, with any sign but letters and digits also as ``_``, which is how QNN writes
    them. ``.npy`` says its own type; ``.raw`` and ``.bin`` are bare little-endian numbers. Integers are codes, and are
    read by scale and zero point of their layer; int8 codes of a uint8 tensor are moved by 128.

    Args:
        folder: where they lie.
        layers: what there can be dumps of.
        dtype: of files without a header.
        layout: of feature maps; TFLite and many chips have channels last.

    Raises:
        DataError: no such folder, no folder of an image, or a file that is of no layer.
    """

    def __init__(
        self, folder: Path, layers: Sequence[Layer], dtype: DumpDtype = "float32", layout: DumpLayout = "nchw"
    ) -> None:
        self.dtype, self.layout = np.dtype(dtype).newbyteorder("<"), layout
        images = sorted(each for each in folder.glob("[0-9]" * 4) if each.is_dir())
        if not images:
            raise DataError(f"{folder} has no folder 0000, 0001 and so on: expected one an image")
        names = [layer.name for layer in layers]
        keys = Counter(map(_key, names))
        by_key = {_key(name): name for name in names if keys[_key(name)] == 1}
        self._files: dict[int, dict[str, Path]] = {}
        for image in images:
            files = self._files.setdefault(int(image.name), {})
            for path in sorted(each for each in image.iterdir() if each.suffix in _SUFFIXES):
                name = path.stem if path.stem in names else by_key.get(_key(path.stem))
                if name is None:
                    raise DataError(f"{path} is of no layer of the file; {nearest(path.stem, names)}")
                if name in files:
                    raise DataError(f"{path} and {files[name]} are of one layer, {name}: delete one of them")
                files[name] = path
        if not any(self._files.values()):
            raise DataError(f"{folder} has no {', '.join(_SUFFIXES)} of any layer")

    @property
    def images(self) -> tuple[int, ...]:
        """Numbers of the images that there are dumps of."""
        return tuple(self._files)

    def read(self, image: int, layer: Layer, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """The dump of a layer, of ``shape``; None if there is none.

        Raises:
            DataError: a damaged file, another number of values, or codes of a layer that has no scale.
        """
        path = self._files[image].get(layer.name)
        if path is None:
            return None
        values = self._bare(path, shape) if path.suffix in _RAW else _array(path)
        if values.dtype.kind in "iu":
            if layer.codes is None:
                raise DataError(
                    f"{path} has {values.dtype} codes, but {layer.name} has no scale in the file: dump floats"
                )
            values = layer.codes.real(values)
        return self._arranged(path, values.astype(np.float32), shape)

    def _bare(self, path: Path, shape: tuple[int, ...]) -> NDArray[np.generic]:
        count, size = int(np.prod(shape)), path.stat().st_size
        expected = count * self.dtype.itemsize
        if size != expected:
            bytes_each = size / count
            fitting = "a dtype of as many bytes with --dump-dtype" if bytes_each in (1, 2, 4) else "the whole tensor"
            raise DataError(
                f"{path} has {size} bytes, expected {expected} ({count} values of {self.dtype.name}): "
                f"{bytes_each:g} a value; give {fitting}"
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
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a NumPy array ({error}): dump it again") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise DataError(f"{path} holds no array of numbers: dump one tensor a file")
    return values


def _key(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "_", name)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side for side in shape if side != 1)
