"""Read images, depth maps and masks into tensors, and check the paths that manifests name."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from depth_distill.data.array_files import read_array
from depth_distill.data.file_errors import AnyFile
from depth_distill.data.image_files import channels, is_16_bit, open_image, orientation
from depth_distill.errors import DataError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
DEPTH_EXTENSIONS = (".png", ".npy", ".npz")

_MORE_BITS = "export the depth again with 16 bits, and check that this is not a colour picture of it"

# A JPEG is reduced block by block, which differs from one antialiased resize: by up to 4 of 255 levels where three
# times the size is left, and by up to 11 where twice the size is.
_REDUCTION = 3


def read_image(path: AnyFile, goes_with_depth: bool = False) -> Tensor:
    """An image, ``(3, H, W)`` uint8 RGB.

    Grey, palette and RGBA images are converted; alpha is dropped. The EXIF orientation is applied, so that phone
    photos are upright.

    Args:
        path: a JPEG or PNG file.
        goes_with_depth: whether a depth map belongs to it, pixel by pixel. An image with an EXIF orientation is then
            refused: nothing says whether the depth map is that of the rows in the file, or of the upright picture.

    Raises:
        DataError: the file is missing, damaged, of another format, has 16 bits (a depth map in place of an image), or
            an orientation where it must not have one.
    """
    return decode_image(path, goes_with_depth)[0]


def decode_image(
    path: AnyFile, goes_with_depth: bool = False, size: tuple[int, int] | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """As :func:`read_image`, with the size (height, width) in the file.

    Args:
        path: a JPEG or PNG file.
        goes_with_depth: whether a depth map belongs to it, pixel by pixel.
        size: (height, width) that the image is going to be resized to. A JPEG may then be decoded at 1/2, 1/4 or 1/8
            of its size, if that leaves three times ``size``: the result of the resize is the same but for 4 of 255
            levels, and a photograph of 12 megapixels takes 0.06 s instead of 0.38 s
            (``tools/benchmarks/benchmark_reading.py``).
    """
    with open_image(path, "a JPEG or PNG image") as file:
        if is_16_bit(file):
            raise DataError(
                f"{path}: expected an image with 8 bits per channel, got a 16-bit one (mode {file.mode}), as depth "
                "maps have; check that image and depth are not swapped"
            )
        if goes_with_depth:
            _require_unturned(path, file)
        on_its_side = orientation(file) >= 5
        width, height = file.size
        if size is not None:
            least = size[::-1] if not on_its_side else size
            file.draft(None, (_REDUCTION * least[0], _REDUCTION * least[1]))
        array = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous(), (width, height) if on_its_side else (height, width)


def read_size(path: AnyFile) -> tuple[int, int]:
    """Height and width of an image, upright, without decoding it.

    Raises:
        DataError: the file is missing, damaged or of another format.
    """
    with open_image(path, "a JPEG or PNG image") as file:
        width, height = file.size
        return (width, height) if orientation(file) >= 5 else (height, width)


def read_depth(path: AnyFile, depth_scale: float) -> Tensor:
    """A depth map, ``(1, H, W)`` float32 metres; 0 where the file has 0, NaN, infinity or a negative value.

    Args:
        path: a single-channel 16-bit PNG, an ``.npy`` file, or an ``.npz`` file with one array or one named ``depth``.
        depth_scale: file units per metre: 1000 for millimetres, 256 for KITTI and NCDB, 5000 for TUM RGB-D, usually 1
            for NumPy files.

    Raises:
        DataError: the file is missing or damaged, of another type, of 8 bits, or not a single map.
    """
    suffix = path.suffix.lower()
    if suffix not in DEPTH_EXTENSIONS:
        raise DataError(
            f"{path}: a depth map is read from {', '.join(DEPTH_EXTENSIONS)}, got '{path.suffix}'; convert the file "
            "(a 16-bit PNG in millimetres goes with depth_scale 1000)"
        )
    if suffix == ".png":
        return depth_tensor(_read_png_16(path), depth_scale)

    def require_map(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if dtype.kind not in "iuf" or _map_shape(shape) is None:
            raise DataError(
                f"{path}: expected numbers of shape (H, W), got {dtype} of shape {shape}; save one depth map per file"
            )
        if dtype.itemsize == 1:
            raise DataError(f"{path}: expected a depth map of 16 bits or more, got {dtype}; {_MORE_BITS}")

    array = read_array(path, require_map)
    return depth_tensor(array.reshape(_map_shape(array.shape) or array.shape), depth_scale)


def depth_tensor(array: NDArray[np.generic], depth_scale: float = 1.0) -> Tensor:
    """Convert ``(H, W)`` numbers in file units to ``(1, H, W)`` float32 metres, with 0 for invalid values."""
    with np.errstate(over="ignore"):  # a float64 beyond the float32 range becomes infinite, which is invalid
        depth_m = torch.from_numpy(array.astype(np.float32)) / depth_scale
    return torch.where(torch.isfinite(depth_m) & (depth_m > 0), depth_m, 0.0).unsqueeze(0)


def read_mask(path: AnyFile) -> Tensor:
    """A mask, ``(1, H, W)`` bool: True (any value except black) where the depth may be used.

    Raises:
        DataError: the file is missing or damaged, or has an EXIF orientation.
    """
    with open_image(path, "a mask image (black = do not use)") as file:
        _require_unturned(path, file)
        grey = file if file.mode in ("1", "L") or is_16_bit(file) else file.convert("L")
        array = np.array(grey) != 0
    return torch.from_numpy(array).unsqueeze(0)


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
        DataError: the path is empty, absolute, outside ``root``, or written as on Windows.
    """
    return root / normal_inside(root, relative, where)


def lies_inside(folder: Path, name: str) -> bool:
    """Whether a path that somebody's file names stays in a folder, also behind links."""
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # a NUL byte, a name that is too long
        return False


def normal_inside(root: Path, relative: str, where: str) -> str:
    """As :func:`resolve_inside`, but as text that is relative to ``root``: a tenth of the time, for long manifests."""
    if not relative:
        raise DataError(f"{where}: a path is missing; fill it in or remove the line")
    if "\0" in relative:
        raise DataError(f"{where}: {relative!r} has a NUL byte; the file may be damaged: write it again")
    if "\\" in relative and os.sep != "\\" and not (root / relative).exists():
        raise DataError(f"{where}: '{relative}' has backslashes; write '{relative.replace(chr(92), '/')}'")
    if os.path.isabs(relative):  # noqa: PTH117 - see above
        cure = os.path.relpath(relative, root)
        hint = f"write '{cure}'" if not cure.startswith("..") else "move the data there, or link it into that folder"
        raise DataError(f"{where}: '{relative}' is an absolute path, but paths must be relative to {root}; {hint}")
    normal = os.path.normpath(relative)
    if normal == os.pardir or normal.startswith(os.pardir + os.sep):
        raise DataError(f"{where}: '{relative}' leaves the data root {root}; set the root further up")
    return normal


def _read_png_16(path: AnyFile) -> NDArray[np.generic]:
    with open_image(path, "a 16-bit PNG depth map") as file:
        if not is_16_bit(file):
            found = channels(path, file)
            cure = "save the channel that holds the depth" if found.endswith("16 bits") else _MORE_BITS
            raise DataError(f"{path}: expected a depth map of 1 channel of 16 bits, got {found}; {cure}")
        _require_unturned(path, file)
        return np.array(file)


def _require_unturned(path: AnyFile, file: Image.Image) -> None:
    if (turned := orientation(file)) != 1:
        raise DataError(
            f"{path}: EXIF orientation {turned} turns the picture, and nothing says whether its depth map is turned, "
            "too; if the depth is that of the rows in the file, remove the tag (exiftool -Orientation= FILE), or else "
            "turn the pixels (mogrify -auto-orient FILE)"
        )


def _map_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """(H, W), also of a map with a batch or a channel of one, as networks write it; None if it is no single map."""
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 3 and 1 in (shape[0], shape[-1]):
        shape = shape[1:] if shape[0] == 1 else shape[:-1]
    return shape if len(shape) == 2 else None
