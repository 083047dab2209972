"""Data beyond one disk: samples in the chunks of LitData, in a folder or an object store, read as they are needed."""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.file_errors import FileInMemory
from depth_distill.data.placement import Size
from depth_distill.data.reading import read_size
from depth_distill.data.sample_files import SampleFiles, read_sample, require_scale
from depth_distill.data.transforms import JointResize
from depth_distill.errors import ConfigError, DataError, first_line
from depth_distill.types import DepthSample

_KINDS = ("image", "depth", "mask")
_WRITE_AGAIN = "write the data set with streamed_item (docs/scaling.md)"


class StreamedDepth(DepthDataset):
    """Samples in the chunks of LitData, in a folder or an object store: for data beyond one disk.

    ``litdata.optimize`` writes them, from the items that :func:`streamed_item` makes.

    A sample is fetched by its number, so order, augmentation and resume are those of every other data set: the same
    for any number of workers and processes, and exact in the middle of an epoch. From an object store, only the bytes
    of the sample are fetched.

    Only files (bytes) are read from chunks: LitData would unpickle objects, which are refused.

    Args:
        root: the folder, or its address in an object store (``s3://``, ``gs://``), as ``litdata`` takes it.
        depth_scale: units of the depth files per metre.

    Raises:
        ConfigError: ``depth_scale`` is not positive.
    """

    def __init__(self, root: str, depth_scale: float = 1000.0) -> None:
        require_scale(depth_scale)
        self.root = re.sub(r"^(\w{2,}):/(?!/)", r"\1://", root)  # data.root is a path, which has one slash of two
        self.depth_scale = depth_scale
        self._opened: tuple[int, Any] | None = None

    @override
    def __len__(self) -> int:
        return self._length

    @override
    def name(self, index: int) -> str:
        return f"{index:08d}"

    @override
    def source(self, index: int) -> str:
        return f"{self.root} sample {index}"

    @override
    def load(self, index: int) -> DepthSample:
        return self._read(index)[0]

    @override
    def at_size(self, index: int, resize: JointResize) -> DepthSample:
        self.require_index(index)
        return resize(self.checked(index, *self._read(index, resize.size)))

    @override
    def image_size(self, index: int) -> Size:
        image = self._file(index, "image")
        return super().image_size(index) if image is None else read_size(image)

    @property
    @override
    def has_depth(self) -> bool:
        return self._has_depth

    @cached_property
    def _has_depth(self) -> bool:
        return self._file(0, "depth") is not None

    @cached_property
    def _length(self) -> int:
        return len(self._stream)

    def _read(self, index: int, size: tuple[int, int] | None = None) -> tuple[DepthSample, tuple[int, int]]:
        item = self._item(index)
        image, depth, mask = (self._file(index, kind, item) for kind in _KINDS)
        if image is None:
            raise DataError(f"{self.source(index)}: has no image; {_WRITE_AGAIN}")
        return read_sample(image, depth, mask, self.depth_scale, size)

    def _file(self, index: int, kind: str, item: dict[str, Any] | None = None) -> FileInMemory | None:
        content = bytes((self._item(index) if item is None else item)[kind])
        if not content:
            return None
        suffix, _, content = content.partition(b"\0")
        return FileInMemory(f"{self.source(index)} {kind}{suffix.decode(errors='replace')}", content)

    def _item(self, index: int) -> dict[str, Any]:
        try:
            item = self._stream[index]
        except DataError:
            raise
        except Exception as error:  # of the network, of the file system, or of a damaged chunk
            raise DataError(
                f"{self.source(index)}: cannot be read ({first_line(error)}); check the chunks, and the network"
            ) from error
        if not isinstance(item, dict) or not set(_KINDS) <= set(item):
            raise DataError(f"{self.source(index)}: expected {', '.join(_KINDS)}; {_WRITE_AGAIN}")
        return item

    @property
    def _stream(self) -> Any:
        """The open data set. Its threads and connections do not survive a fork, so each process opens its own."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def _open(self) -> Any:
        try:
            from litdata import StreamingDataset
        except ImportError as error:
            raise ConfigError("StreamedDepth needs litdata: pip install 'depth-distill[streaming]'") from error
        try:
            stream = StreamingDataset(self.root, serializers=_bytes_only())
            len(stream)
        except Exception as error:  # whatever the store or the parser of index.json raises
            raise DataError(
                f"{self.root}: cannot be opened as a data set of LitData ({first_line(error)}); expected a folder or "
                "an address that litdata.optimize wrote, with its index.json"
            ) from error
        return stream

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def streamed_item(files: SampleFiles) -> dict[str, bytes]:
    """The files of one sample as they are, for ``litdata.optimize``; empty where there is none."""
    return {
        kind: b"" if path is None else Path(path).suffix.encode() + b"\0" + Path(path).read_bytes()
        for kind, path in zip(_KINDS, (files.image, files.depth, files.mask), strict=True)
    }


def _bytes_only() -> dict[str, Any]:
    """Readers of everything that LitData stores but bytes, which refuse it: some of LitData's own unpickle."""
    from litdata.streaming.serializers import _SERIALIZERS, Serializer

    class Refused(Serializer):
        def __init__(self, name: str) -> None:
            self.name = name

        def serialize(self, data: Any) -> tuple[bytes, str | None]:
            raise self.error()

        def deserialize(self, data: bytes) -> Any:
            raise self.error()

        def can_serialize(self, data: Any) -> bool:
            return False

        def error(self) -> DataError:
            kind = f"the chunks hold a value of LitData's kind '{self.name}'"
            return DataError(f"{kind}, expected bytes; {_WRITE_AGAIN}")

    return {name: Refused(name) for name in _SERIALIZERS if name != "bytes"}
