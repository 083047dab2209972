"""NYU Depth v2: 1449 indoor Kinect frames in one MATLAB file."""

import json
import math
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import torch
from typing_extensions import override

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.image_files import MAX_PIXELS
from depth_distill.data.reading import depth_tensor, resolve_inside
from depth_distill.data.sample_files import read_index_file, require_folder
from depth_distill.errors import DataError
from depth_distill.suggestions import did_you_mean
from depth_distill.types import DepthSample

# The region inside the white border that undistortion adds to the colour image, 561 x 427 of 640 x 480: rows 45 to 471
# and columns 41 to 601, counted from 1, in get_projection_mask.m of the data set's toolbox.
_ROWS, _COLUMNS = slice(44, 471), slice(40, 601)


class NyuV2Labeled(DepthDataset):
    """The labeled set of NYU Depth v2, read from ``nyu_depth_v2_labeled.mat`` (HDF5, MATLAB 7.3); depth in metres.

    MATLAB stores arrays in column-major order, so the file's axes are (sample, channel, width, height); they are
    transposed here. Each process opens the file once, when it reads its first sample.

    Documented at https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html (Silberman et al., ECCV 2012). The official
    split is in ``splits.mat``, counted from 1, in an older MATLAB format; convert it for ``indices`` with
    ``json.dump((scipy.io.loadmat("splits.mat")["trainNdxs"].ravel() - 1).tolist(), open("train.json", "w"))``.

    Args:
        root: the data folder.
        file: name of the MATLAB file in it.
        indices: frames to use, counted from 0: a list, or the path (relative to ``root``) of a ``.json`` file with a
            list or of a text file with whole numbers separated by whitespace; by default all frames.
        raw: use the measured depth (``rawDepths``, with holes) instead of the depth filled in by colourization
            (``depths``).
        crop_border: crop the white border, from 640 x 480 to 561 x 427.
    """

    def __init__(
        self,
        root: str | Path,
        file: str = "nyu_depth_v2_labeled.mat",
        indices: str | Path | Sequence[int] | None = None,
        raw: bool = False,
        crop_border: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.file = file
        self.indices = indices
        self.raw = raw
        self.crop_border = crop_border
        self._opened: tuple[int, Any] | None = None

    @override
    def __len__(self) -> int:
        return len(self.frames)

    @override
    def name(self, index: int) -> str:
        return f"{self.frames[index]:04d}"

    @override
    def source(self, index: int) -> str:
        return f"{self._path} frame {self.frames[index]}"

    @override
    def load(self, index: int) -> DepthSample:
        frame = self.frames[index]
        try:
            image, depth = self._content["images"][frame], self._content[self._depth_key][frame]
        except OSError as error:
            raise DataError(
                f"{self.source(index)}: cannot be read ({error}); the file may be truncated: download it again"
            ) from error
        rows, columns = (_ROWS, _COLUMNS) if self.crop_border else (slice(None), slice(None))
        rgb = torch.from_numpy(image).mT[:, rows, columns].contiguous()
        depth_m = depth_tensor(depth).mT[:, rows, columns].contiguous()
        return DepthSample(rgb, depth_m, depth_m > 0)

    @cached_property
    def frames(self) -> Sequence[int]:
        """Positions in the file, read on first use.

        Raises:
            DataError: a file is missing or malformed, or an index is not in the file or listed twice.
        """
        count = len(self._content["images"])
        frames, where = self._chosen(count)
        if not frames:
            raise DataError(f"{where}: no frames; list at least one, or leave indices out for all {count}")
        for frame in frames:
            if not 0 <= frame < count:
                raise DataError(
                    f"{where}: frame {frame} is not in {self._path}, which has {count}, counted from 0 to {count - 1}; "
                    "MATLAB counts from 1: subtract 1"
                )
        if len(set(frames)) < len(frames):
            twice = next(frame for frame in frames if frames.count(frame) > 1)
            raise DataError(f"{where}: frame {twice} is listed more than once; list each frame once")
        return frames

    def _chosen(self, count: int) -> tuple[list[int], str]:
        if self.indices is None:
            return list(range(count)), str(self._path)
        if not isinstance(self.indices, str | Path):
            return list(self.indices), "indices"
        path = resolve_inside(self.root, str(self.indices), "indices")
        text = read_index_file(self.root, self.indices, "indices")
        try:
            frames = json.loads(text) if path.suffix == ".json" else [int(word) for word in text.split()]
        except ValueError as error:
            raise DataError(f"{path}: expected whole numbers, counted from 0 ({error})") from error
        if not isinstance(frames, list) or not all(type(frame) is int for frame in frames):
            raise DataError(f"{path}: expected a list of whole numbers, counted from 0")
        return frames, str(path)

    @property
    def _path(self) -> Path:
        return self.root / self.file

    @property
    def _depth_key(self) -> str:
        return "rawDepths" if self.raw else "depths"

    @property
    def _content(self) -> Any:
        """The open file. An HDF5 handle does not survive a fork, so each process opens its own."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def _open(self) -> Any:
        require_folder(self.root)
        if not self._path.exists():
            present = did_you_mean(self.file, sorted(path.name for path in self.root.glob("*.mat")))
            raise DataError(f"{self._path}: no such file among the *.mat files in {self.root}; {present}")
        try:
            content = h5py.File(self._path, "r")
        except OSError as error:
            raise DataError(
                f"{self._path}: cannot be read as HDF5 (MATLAB 7.3) ({error}); expected nyu_depth_v2_labeled.mat, "
                "2.8 GiB: download it again"
            ) from error
        for key in ("images", self._depth_key):
            if key not in content:
                raise DataError(f"{self._path}: has no '{key}'; {did_you_mean(key, content)}")
        images, depths = (_described(content[key]) for key in ("images", self._depth_key))
        (count, colours, *size), kind = images
        if kind != "u" or colours != 3 or depths != ((count, *size), "f") or math.prod(size) > MAX_PIXELS:
            raise DataError(
                f"{self._path}: 'images' and '{self._depth_key}' are {images} and {depths}, expected 8-bit integers of "
                "shape (N, 3, W, H) and floats of shape (N, W, H); download the file again"
            )
        return content

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def _described(content: Any) -> tuple[tuple[int, ...], str]:
    """Shape and kind of type of an array in the file; of something else, of nothing."""
    if not isinstance(content, h5py.Dataset) or content.ndim < 2:
        return (0, 0), "-"
    return content.shape, "u" if content.dtype == "uint8" else content.dtype.kind
