"""Read images, depth maps and masks into tensors, and check the paths that manifests name."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from depth_distill.errors import DataError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
DEPTH_EXTENSIONS = (".png", ".npy", ".npz")

# What Pillow and NumPy raise on a damaged file. OSError covers missing, unreadable, truncated and unidentified files.
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)


def read_image(path: Path) -> Tensor:
    """An image, ``(3, H, W)`` uint8 RGB.

    Grey, palette and RGBA images are converted; alpha is dropped. The EXIF orientation is applied, so that phone
    photos are upright.

    Raises:
        DataError: the file is missing, damaged, or has 16 bits (a depth map in place of an image).
    """
    with _readable_errors(path, "a JPEG or PNG image"), Image.open(path) as file:
        if _is_16_bit(file):
            raise DataError(
                f"{path}: expected an image with 8 bits per channel, got a 16-bit one (mode {file.mode}), as depth "
                "maps have; check that image and depth are not swapped"
            )
        array = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def read_depth(path: Path, depth_scale: float) -> Tensor:
    """A depth map, ``(1, H, W)`` float32 metres; 0 where the file has 0, NaN, infinity or a negative value.

    Args:
        path: a single-channel 16-bit PNG, an ``.npy`` file, or an ``.npz`` file with one array or one named ``depth``.
        depth_scale: file units per metre: 1000 for millimetres, 256 for KITTI and NCDB, 5000 for TUM RGB-D, usually 1
            for NumPy files.

    Raises:
        DataError: the file is missing or damaged, of another type, not 16-bit, or not a single map.
    """
    suffix = path.suffix.lower()
    if suffix not in DEPTH_EXTENSIONS:
        raise DataError(
            f"{path}: a depth map is read from {', '.join(DEPTH_EXTENSIONS)}, got '{path.suffix}'; convert the file "
            "(a 16-bit PNG in millimetres goes with depth_scale 1000)"
        )
    if suffix == ".png":
        return depth_tensor(_read_png_16(path), depth_scale)
    array = _read_numpy(path)
    if array.ndim == 4 and array.shape[0] == 1:  # the output of a network, saved as it is
        array = array[0]
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: expected numbers of shape (H, W), got {array.dtype} of shape {array.shape}; save one depth map "
            "per file"
        )
    return depth_tensor(array, depth_scale)


def depth_tensor(array: NDArray[np.generic], depth_scale: float = 1.0) -> Tensor:
    """Convert ``(H, W)`` numbers in file units to ``(1, H, W)`` float32 metres, with 0 for invalid values."""
    with np.errstate(over="ignore"):  # a float64 beyond the float32 range becomes infinite, which is invalid
        depth_m = torch.from_numpy(array.astype(np.float32)) / depth_scale
    return torch.where(torch.isfinite(depth_m) & (depth_m > 0), depth_m, 0.0).unsqueeze(0)


def read_mask(path: Path) -> Tensor:
    """A mask, ``(1, H, W)`` bool: True (any value except black) where the depth may be used.

    Raises:
        DataError: the file is missing or damaged.
    """
    with _readable_errors(path, "a mask image (black = do not use)"), Image.open(path) as file:
        grey = file if file.mode in ("1", "L") or _is_16_bit(file) else file.convert("L")
        array = np.array(grey) != 0
    return torch.from_numpy(array).unsqueeze(0)


def read_array(path: Path) -> NDArray[np.generic]:
    """The array of an ``.npy`` file; nothing in it is executed.

    Raises:
        DataError: the file is missing, damaged, or holds Python objects.
    """
    return _read_numpy(path)


def resolve_inside(root: Path, relative: str, where: str) -> Path:
    """Resolve a path from a manifest to a path under ``root`` without ``..``.

    Manifests may come from third parties, so they must not escape the data folder: absolute paths, and ``..`` beyond
    ``root``, are refused. ``..`` is resolved lexically, before the disk is accessed. Symbolic links are followed even
    out of the root: they were made by the folder's owner, and linking a large folder into a data root is common.

    Args:
        root: the data root.
        relative: path as written in the manifest.
        where: manifest and line, for the error message.

    Raises:
        DataError: the path is empty, absolute, or outside ``root``.
    """
    if not relative:
        raise DataError(f"{where}: a path is missing; fill it in or remove the line")
    if Path(relative).is_absolute():
        cure = os.path.relpath(relative, root)
        hint = f"write '{cure}'" if not cure.startswith("..") else "move the data there, or link it into that folder"
        raise DataError(f"{where}: '{relative}' is an absolute path, but paths must be relative to {root}; {hint}")
    normal = Path(os.path.normpath(relative))
    if normal.parts[:1] == ("..",):
        raise DataError(f"{where}: '{relative}' leaves the data root {root}; set the root further up")
    return root / normal


def _read_png_16(path: Path) -> NDArray[np.generic]:
    with _readable_errors(path, "a 16-bit PNG depth map"), Image.open(path) as file:
        if not _is_16_bit(file):
            raise DataError(
                f"{path}: expected a single-channel 16-bit PNG depth map, got mode {file.mode} (8 bits per channel); "
                "8 bits are too few for metric depth: export the depth again with 16 bits, and check that this is not "
                "a colour picture of it"
            )
        return np.array(file)


def _read_numpy(path: Path) -> NDArray[np.generic]:
    with _readable_errors(path, "a NumPy array"):
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content as arrays:
            keys = list(arrays)
            if "depth" not in keys and len(keys) != 1:
                raise DataError(
                    f"{path}: expected one array, or one called 'depth', got {', '.join(keys) or 'none'}; save the "
                    "depth map under the key 'depth'"
                )
            return arrays["depth" if "depth" in keys else keys[0]]


def _is_16_bit(file: Image.Image) -> bool:
    return file.mode == "I" or file.mode.startswith("I;16")  # "I": how some writers and older Pillows store 16 bits


@contextmanager
def _readable_errors(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a decoder raises on ``path`` into a ``DataError`` with a readable message."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; expected {expected}; check the data root, or remove the sample from the split"
        ) from error
    except PermissionError as error:
        raise DataError(f"{path}: no permission to read it; expected {expected}; run chmod or chown on it") from error
    except _DECODING_ERRORS as error:
        reason = str(error).replace(f" '{path}'", "")
        raise DataError(
            f"{path}: cannot be read as {expected} ({reason}); the file may be truncated: copy or download it again, "
            "or remove the sample from the split"
        ) from error
