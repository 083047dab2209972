"""Read NumPy files whose headers are checked before memory is taken; nothing in them is executed."""

import io
import math
import zipfile
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from depth_distill.data.file_errors import AnyFile, readable_errors
from depth_distill.errors import DataError

MAX_BYTES = 2**30
"""As many as those of a float64 depth map with ``image_files.MAX_PIXELS``."""

_NPY, _ZIP = b"\x93NUMPY", b"PK"

HeaderCheck = Callable[[np.dtype[Any], tuple[int, ...]], object]


def read_array(path: AnyFile, check: HeaderCheck = lambda *_: None) -> NDArray[np.generic]:
    """The array of an ``.npy`` file, or that of an ``.npz`` file with one array or one called ``depth``.

    Args:
        path: the file. What it holds decides, not its suffix.
        check: receives type and shape before the array is read, and raises where they are wrong.

    Raises:
        DataError: the file is missing, damaged, too large, or holds Python objects; what ``check`` raises.
    """
    with readable_errors(path, "a NumPy array", (_NPY, _ZIP)), path.open("rb") as file:
        if file.read(2) != _ZIP:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return _read(path, file, size, check)
        with zipfile.ZipFile(file) as archive:
            member = archive.getinfo(_depth_member(path, archive.namelist()))
            with archive.open(member) as content:
                return _read(path, content, member.file_size, check)


def read_arrays(path: AnyFile, check: HeaderCheck = lambda *_: None) -> dict[str, NDArray[np.generic]]:
    """Every array of an ``.npz`` file, by its name.

    Args:
        path: the file.
        check: see :func:`read_array`; for each array.

    Raises:
        DataError: see :func:`read_array`.
    """
    with (
        readable_errors(path, "an .npz file", (_ZIP,)),
        path.open("rb") as file,
        zipfile.ZipFile(file) as archive,
    ):
        arrays = {}
        for member in archive.infolist():
            with archive.open(member) as content:
                arrays[member.filename.removesuffix(".npy")] = _read(path, content, member.file_size, check)
        return arrays


def _depth_member(path: AnyFile, names: list[str]) -> str:
    keys = {name.removesuffix(".npy"): name for name in names}
    if "depth" not in keys and len(keys) != 1:
        raise DataError(
            f"{path}: expected one array, or one called 'depth', got {', '.join(keys) or 'none'}; save the depth map "
            "under the key 'depth'"
        )
    return keys["depth"] if "depth" in keys else names[0]


def _read(path: AnyFile, file: IO[bytes], size: int, check: HeaderCheck) -> NDArray[np.generic]:
    """The array that starts here, of a file of ``size`` bytes."""
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    start = file.tell()
    if dtype.hasobject:
        raise DataError(f"{path}: holds Python objects, which are not unpickled (allow_pickle); save numbers")
    check(dtype, shape)
    count = math.prod(shape)
    if count * dtype.itemsize > MAX_BYTES:
        raise DataError(
            f"{path}: the array is {dtype} of shape {shape}, {count * dtype.itemsize / 1e9:.3g} GB, and at most "
            f"{MAX_BYTES / 1e9:.3g} GB are read; save a smaller one"
        )
    if min(shape, default=0) < 0 or count * dtype.itemsize > size - start:
        raise ValueError(f"its header says {dtype} of shape {shape}, and {max(size - start, 0)} bytes follow")
    file.seek(0)
    array: NDArray[np.generic] = npy.read_array(file, allow_pickle=False)
    return array
