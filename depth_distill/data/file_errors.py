"""Say in one message what is wrong with a file that cannot be decoded, and what it is instead."""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from PIL import UnidentifiedImageError

from depth_distill.errors import DataError


@dataclass(frozen=True)
class FileInMemory:
    """The content of a file that is part of a larger one; it opens as a path does."""

    name: str
    """Where it comes from, for messages; ends as the file's name does."""
    content: bytes = field(repr=False)

    @property
    def suffix(self) -> str:
        """That of the file."""
        return Path(self.name).suffix

    def open(self, _: str = "rb") -> IO[bytes]:
        """The bytes, for reading."""
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return self.name


AnyFile = Path | FileInMemory

_REMOVE = "or remove the sample from the split"
_CONVERT = f"convert it, {_REMOVE}"
_AGAIN = f"copy or download it again, {_REMOVE}"

# How files begin that lie where images and depth maps are expected.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"GIF8", "a GIF image", _CONVERT),
    (b"II*\0", "a TIFF image", _CONVERT),
    (b"MM\0*", "a TIFF image", _CONVERT),
    (b"RIFF", "a WebP image", _CONVERT),
    (b"BM", "a BMP image", _CONVERT),
    (b"v/1\x01", "an OpenEXR image", _CONVERT),
    (b"%!PS", "a PostScript file", _CONVERT),
    (b"%PDF", "a PDF file", _CONVERT),
    (b"\xff\xd8\xff", "a JPEG image", _CONVERT),
    (b"\x89PNG", "a PNG image", _CONVERT),
    (b"\x93NUMPY", "an .npy array", _CONVERT),
    (b"PK\x03\x04", "a ZIP or .npz archive", _CONVERT),
    (b"version https://git-lfs", "the pointer of a file in Git LFS", "run git lfs pull"),
    (b"<", "HTML or XML text", _AGAIN),
)


@contextmanager
def readable_errors(path: AnyFile, expected: str, beginnings: tuple[bytes, ...]) -> Iterator[None]:
    """Turn whatever a decoder raises on ``path`` into a ``DataError`` that names the cause.

    A decoder that is fed foreign bytes may raise anything: Pillow and NumPy raise a dozen types between them.

    Args:
        path: the file.
        expected: what it should be, for the message.
        beginnings: how a file of the expected kind begins.
    """
    try:
        require_regular(path)
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; expected {expected}; check the data root, or remove the sample from the split"
        ) from error
    except PermissionError as error:
        raise DataError(f"{path}: no permission to read it; expected {expected}; run chmod or chown on it") from error
    except Exception as error:
        reason, cure = _cause(path, error, beginnings)
        raise DataError(f"{path}: cannot be read as {expected} ({reason}); {cure}") from error


def require_regular(path: AnyFile) -> None:
    """Check that a path is that of a file: to open a pipe would wait for ever, and a device may never end.

    Raises:
        OSError: it is something else, or nothing.
    """
    if isinstance(path, FileInMemory):
        return
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError("it is a folder" if stat.S_ISDIR(mode) else "it is a pipe or a device")


def _cause(path: AnyFile, error: Exception, beginnings: tuple[bytes, ...]) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    reason = " ".join(str(error).replace(f" '{path}'", "").split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "cannot identify image file"  # Pillow adds the address of the opened file
    try:
        require_regular(path)
        with path.open("rb") as file:
            start = file.read(64)
    except (OSError, ValueError):
        return reason, f"correct its path, {_REMOVE}"
    if not start:
        return "it is empty", _AGAIN
    if not start.startswith(beginnings):
        for beginning, kind, cure in _BEGINNINGS:
            if start.lstrip().startswith(beginning):
                return f"it is {kind}", cure
    return reason, f"the file may be truncated: {_AGAIN}"
