"""Files that are either whole or not there: written beside their place under another name, then renamed."""

import errno
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PARTIAL = re.compile(r"\..*\.(\d+)-partial(?:\.[^.]*)?")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, which becomes ``path`` when the block ends without an exception.

    It lies beside ``path`` and not in ``$TMPDIR``, because only within one file system is a rename a single step. Until
    then the previous file stays as it is: whatever kills the process, and also where the disk is full. The content is
    on the disk before the rename, so that neither does a power cut leave an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, because writers such as Pillow and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-partial{path.suffix}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        # NumPy's has neither a number nor a name where the disk is full.
        if error.errno is None:
            raise OSError(errno.EIO, str(error), str(path)) from error
        error.filename = str(path) if error.filename in (None, str(temporary)) else error.filename
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Delete what a killed process left of a file that it was writing into ``folder``; nobody may write there now."""
    for path in folder.glob(".*-partial*"):
        if _PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)


def is_being_written(partial: Path) -> bool:
    """Whether the process that writes a partial file is still there, on this machine."""
    found = _PARTIAL.fullmatch(partial.name)
    if found is None:
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True  # somebody else's
    return True


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinity, which JSON cannot represent, become null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
