"""A tensor of a device in a file: with or without a header, channels first or last."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from depth_distill.data.array_files import read_array
from depth_distill.errors import DataError

DumpDtype = Literal["float32", "float16", "int8", "uint8", "int16", "uint16"]
DumpLayout = Literal["nchw", "nhwc"]

HEADERLESS = (".raw", ".bin")


def read_tensor(path: Path, shape: tuple[int, ...], dtype: DumpDtype) -> NDArray[Any]:
    """The numbers of a file; see :func:`arranged` for their shape.

    Args:
        path: an ``.npy`` file, which stores its own type, or headerless little-endian numbers.
        shape: shape of the tensor.
        dtype: type of headerless numbers.

    Raises:
        DataError: the file is damaged, holds no numbers, or is headerless and has another size.
    """
    if path.suffix not in HEADERLESS:
        values = read_array(path)
        if values.dtype.kind not in "iuf":
            raise DataError(f"{path} holds {values.dtype}, expected floats or integers: dump one tensor per file")
        return values
    little = np.dtype(dtype).newbyteorder("<")
    count, size = int(np.prod(shape)), path.stat().st_size
    expected = count * little.itemsize
    if size != expected:
        bytes_each = size / count
        cure = "give a dtype of that size with --dump-dtype" if bytes_each in (1, 2, 4) else "dump the whole tensor"
        raise DataError(
            f"{path} has {size} bytes, expected {expected} ({count} values of {little.name}): "
            f"{bytes_each:g} per value; {cure}"
        )
    return np.fromfile(path, little)


def arranged(path: Path, values: NDArray[Any], shape: tuple[int, ...], layout: DumpLayout) -> NDArray[Any]:
    """Numbers of a file as ``shape``; they are flat, or have its sides in the given order, but for sides of 1.

    Args:
        path: the file, for messages.
        values: its numbers.
        shape: shape of the tensor, channels first.
        layout: order of the sides of feature maps ``(N, C, H, W)`` in the file; others are as they are.

    Raises:
        DataError: there are more or fewer, or the sides are others.
    """
    stored = (shape[0], *shape[2:], shape[1]) if layout == "nhwc" and len(shape) == 4 else shape
    flat = values.ndim == 1
    if values.size != np.prod(stored) or not (flat or _without_ones(values.shape) == _without_ones(stored)):
        raise DataError(f"{path} has the shape {values.shape}, expected {stored} ({layout}; see --dump-layout)")
    values = values.reshape(stored)
    return values if stored == shape else np.moveaxis(values, -1, 1)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side for side in shape if side != 1)
