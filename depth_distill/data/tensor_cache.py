"""Memory-mapped tensors on disk, one row per key: written once, read many times, by several processes."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from depth_distill.errors import DataError

_HEADER = "header.json"
_FILLED = "filled.bin"


@dataclass(frozen=True)
class Field:
    """Shape and type of one tensor per row."""

    shape: tuple[int, ...]
    dtype: str
    """NumPy name, such as ``float32`` or ``float16``."""

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class TensorCache:
    """Named tensors by row number, in a folder of memory-mapped files.

    A row's flag is written after its tensors, and the rows of different processes do not overlap in memory, so
    several processes may read and write concurrently, and any of them may be killed at any time; two that write the
    same row write the same values. A power failure may leave flags without tensors: delete the folder in that case.
    Files are sparse: only rows that were written use disk space.

    Args:
        folder: created if it does not exist; several processes may create it concurrently.
        key: identifies what the values depend on; a folder with another key is refused.
        rows: number of rows.
        fields: shape and type of each tensor, by name.

    Raises:
        DataError: the folder belongs to another key or layout, or the disk has no room for the missing rows.
    """

    def __init__(self, folder: Path, key: str, rows: int, fields: Mapping[str, Field]) -> None:
        self.folder = folder
        self.rows = rows
        self.fields = dict(fields)
        header = {
            "key": key,
            "rows": rows,
            "fields": {name: [list(field.shape), field.dtype] for name, field in self.fields.items()},
        }
        if not (folder / _HEADER).is_file():
            self._create(header)
        if not (folder / _HEADER).is_file():
            raise DataError(f"{folder} exists but is not a cache (it has no {_HEADER}): choose another folder")
        found = json.loads((folder / _HEADER).read_text())
        if found != header:
            different = next(name for name in header if found.get(name) != header[name])
            raise DataError(f"{folder} holds a cache with another {different}: delete the folder, or choose another")
        self._filled = np.memmap(folder / _FILLED, np.uint8, "r+", shape=(rows,))
        missing, free = self.size_bytes(rows - self.filled, self.fields), shutil.disk_usage(folder).free
        if missing > free:
            raise _no_room(folder, missing, free)
        self._values = {
            name: np.memmap(folder / _file(name), field.dtype, "r+", shape=(rows, *field.shape))
            for name, field in self.fields.items()
        }

    @staticmethod
    def size_bytes(rows: int, fields: Mapping[str, Field]) -> int:
        """Size on disk of a full cache, in bytes."""
        return rows * (1 + sum(field.row_bytes for field in fields.values()))

    @property
    def filled(self) -> int:
        """Number of rows that were written."""
        return int(np.count_nonzero(self._filled))

    def get(self, rows: Sequence[int]) -> dict[str, Tensor] | None:
        """Tensors ``(len(rows), *shape)`` by name, as float32; None unless every row was written."""
        index = np.asarray(rows)
        if not self._filled[index].all():
            return None
        return {name: torch.from_numpy(values[index]).float() for name, values in self._values.items()}

    def put(self, rows: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """Write rows; ``tensors`` must hold every field as ``(len(rows), *shape)``.

        Raises:
            DataError: the type of a field cannot hold one of its values.
        """
        index = np.asarray(rows)
        for name, field in self.fields.items():
            values = tensors[name].detach().cpu().float()
            largest = float(np.finfo(field.dtype).max)
            if not bool((values.abs() <= largest).all()):
                raise DataError(f"the cache cannot store {name} as {field.dtype}: a value is beyond {largest:g} or NaN")
            self._values[name][index] = values.numpy().astype(field.dtype)
        self._filled[index] = 1

    def _create(self, header: dict[str, object]) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        needed, free = self.size_bytes(self.rows, self.fields), shutil.disk_usage(self.folder.parent).free
        if needed > free:
            raise _no_room(self.folder, needed, free)
        temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent))
        for name, size in [
            (_FILLED, self.rows),
            *((_file(name), self.rows * field.row_bytes) for name, field in self.fields.items()),
        ]:
            with (temporary / name).open("wb") as file:
                file.truncate(size)
        (temporary / _HEADER).write_text(json.dumps(header, indent=2) + "\n")
        try:
            os.rename(temporary, self.folder)  # noqa: PTH104 - Path.rename would also replace an empty folder
        except OSError:  # another process was faster
            shutil.rmtree(temporary)


def _no_room(folder: Path, needed: int, free: int) -> DataError:
    return DataError(
        f"{folder} needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB: cache fewer layers or views, or "
        "choose another folder"
    )


def _file(name: str) -> str:
    return f"{name}.values.bin"
