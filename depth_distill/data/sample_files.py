"""Base of all file-based data sets: a list of file paths per sample, and the code that loads them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from typing_extensions import override

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.file_errors import AnyFile, require_regular
from depth_distill.data.placement import Size
from depth_distill.data.reading import IMAGE_EXTENSIONS, decode_image, read_depth, read_mask, read_size
from depth_distill.data.transforms import JointResize
from depth_distill.errors import ConfigError, DataError
from depth_distill.suggestions import did_you_mean
from depth_distill.types import DepthSample


@dataclass(frozen=True)
class SampleFiles:
    """The files of one sample. Paths are text where there are many: ``Path`` takes ten times as long to make."""

    name: str
    """Unique in the data set: the image's path relative to the data root, without its suffix."""
    image: Path | str
    depth: Path | str | None = None
    """None for image-only data."""
    mask: Path | str | None = None
    """An image that is black where the depth must not be used."""
    where: str = ""
    """Manifest and line that name the sample; empty if it was found by listing a folder."""


class FileDataset(DepthDataset):
    """A data set of image, depth and mask files, which subclasses list.

    Args:
        root: the data folder; ``~`` is expanded.
        depth_scale: units of the depth files per metre.

    Raises:
        ConfigError: ``depth_scale`` is not positive.
    """

    expected: ClassVar[str]
    """Expected content of a data root with this layout, for error messages."""

    def __init__(self, root: str | Path, depth_scale: float) -> None:
        require_scale(depth_scale)
        self.root = Path(root).expanduser()
        self.depth_scale = depth_scale

    @abstractmethod
    def list_samples(self) -> list[SampleFiles]:
        """The files of all samples, in order.

        Raises:
            DataError: an index file is missing or malformed.
        """

    @cached_property
    def sample_files(self) -> Sequence[SampleFiles]:
        """The files of all samples, listed on first use.

        Raises:
            DataError: the root or an index file is missing, an index file is malformed, there is no sample, or two
                samples have the same name.
        """
        require_folder(self.root)
        samples = self.list_samples()
        if not samples:
            raise DataError(f"{self.root}: no samples found; expected {self.expected}")
        _require_unique(samples)
        return samples

    @override
    def __len__(self) -> int:
        return len(self.sample_files)

    @override
    def name(self, index: int) -> str:
        return self.sample_files[index].name

    @override
    def source(self, index: int) -> str:
        return str(self.sample_files[index].image)

    @override
    def load(self, index: int) -> DepthSample:
        return self._read(index)[0]

    @override
    def at_size(self, index: int, resize: JointResize) -> DepthSample:
        self.require_index(index)
        return resize(self.checked(index, *self._read(index, resize.size)))

    @override
    def image_size(self, index: int) -> Size:
        return read_size(Path(self.sample_files[index].image))

    def _read(self, index: int, size: tuple[int, int] | None = None) -> tuple[DepthSample, tuple[int, int]]:
        files = self.sample_files[index]
        depth, mask = (None if file is None else Path(file) for file in (files.depth, files.mask))
        return read_sample(Path(files.image), depth, mask, self.depth_scale, size)

    @property
    @override
    def has_depth(self) -> bool:
        return self.sample_files[0].depth is not None


def read_sample(
    image_file: AnyFile,
    depth_file: AnyFile | None,
    mask_file: AnyFile | None,
    depth_scale: float,
    size: tuple[int, int] | None = None,
) -> tuple[DepthSample, tuple[int, int]]:
    """A sample, and (height, width) of its image in the file.

    Args:
        image_file: JPEG or PNG.
        depth_file: the depth map; None for image-only data.
        mask_file: an image that is black where the depth must not be used, if there is one.
        depth_scale: units of the depth file per metre.
        size: (height, width) that the sample is going to be resized to; the image may be decoded smaller.

    Raises:
        DataError: a file is missing or unreadable, or the mask is not of the size of the depth map.
    """
    image, image_size = decode_image(image_file, depth_file is not None, size)
    if depth_file is None:
        no_depth = torch.zeros(1, *image_size)
        return DepthSample(image, no_depth, no_depth > 0), image_size
    depth_m = read_depth(depth_file, depth_scale)
    valid = depth_m > 0
    if mask_file is not None:
        mask = read_mask(mask_file)
        if mask.shape != valid.shape:
            (height, width), (depth_height, depth_width) = mask.shape[-2:], valid.shape[-2:]
            raise DataError(
                f"{mask_file}: the mask is {width} x {height} but its depth map is {depth_width} x {depth_height}; "
                "save both in the same size"
            )
        valid &= mask
    return DepthSample(image, depth_m, valid), image_size


def sample_name(image: Path, root: Path) -> str:
    """Name of a sample: the image's path relative to the root, without suffix, with ``/`` between folders."""
    return image.relative_to(root).with_suffix("").as_posix()


def images_by_stem(folder: Path) -> dict[str, Path]:
    """JPEG and PNG files directly in ``folder`` by file stem, sorted; hidden files are left out."""
    files = sorted(path for path in folder.iterdir() if is_image(path))
    return {path.stem: path for path in files}


def is_image(path: Path, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> bool:
    """Whether the file name is that of an image; hidden files (macOS leaves ``._photo.jpg`` files) do not count."""
    return path.suffix.lower() in extensions and not path.name.startswith(".")


def require_scale(depth_scale: float) -> None:
    """Check the units of depth files per metre.

    Raises:
        ConfigError: they are not positive.
    """
    if not 0 < depth_scale < float("inf"):
        raise ConfigError(f"depth_scale must be positive (file units per metre), got {depth_scale}")


def require_folder(folder: Path) -> None:
    """Check that a data root exists and is a folder.

    Raises:
        DataError: it does not exist or is a file.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder}: the data folder {problem}; point data.root at your data (--data.root=FOLDER)")


def read_index_file(root: Path, relative: str | Path, option: str) -> str:
    """The text of a manifest or split file.

    Args:
        root: the data root.
        relative: path of the file, relative to ``root``.
        option: the option that names the file, for the error message.

    Raises:
        DataError: the file is missing (the message lists similar files in its folder) or is not UTF-8 text.
    """
    path = root / relative
    try:
        require_regular(path)
        return path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark before the header
    except (FileNotFoundError, NotADirectoryError):
        folder = path.parent if path.parent.is_dir() else root
        present = did_you_mean(path.name, sorted(file.name for file in folder.glob(f"*{path.suffix}")))
        raise DataError(
            f"{path}: no such file ({option}) among the *{path.suffix} files in {folder}; {present}"
        ) from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); {option} must name a UTF-8 text file") from error


def _require_unique(samples: Sequence[SampleFiles]) -> None:
    first: dict[str, SampleFiles] = {}
    for sample in samples:
        other = first.setdefault(sample.name, sample)
        if other is not sample:
            here, there = (f"{s.where}: {Path(s.image).name}" if s.where else str(s.image) for s in (sample, other))
            raise DataError(
                f"{here} has the same name as {there} ('{sample.name}'); predictions are named after their image, so "
                "list each image once, under names that differ in more than their suffix"
            )
