"""Files of ``torch.save`` (zip archives, the legacy format), of TorchScript and of ``pickle``, read inertly."""

import io
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any

from depth_distill.models.inert_pickle import InertReader, UnreadableError
from depth_distill.models.stored_values import BUILDERS, STORAGES, VALUES, Source, Storage

_ZIP = b"PK\x03\x04"
_LEGACY = 0x1950A86A20F9469CFC6C  # the first pickle of a legacy file
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip entry: the lengths of its name and of its extra field

# What a damaged or hostile file makes the decoder of opcodes, the zip reader, a builder or a container raise.
_DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, EOFError, MemoryError,
    RuntimeError, NotImplementedError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def read_inert(path: Path) -> Any:
    """The content of a file; no code of it runs, see :mod:`depth_distill.models.inert_pickle`.

    Returns:
        Dicts, lists, tuples, sets, numbers and strings; ``StoredTensor`` and ``StoredArray`` for tensors and arrays,
        and ``Inert`` or ``Name`` for all else. Memory is bounded by the size of the file.

    Raises:
        UnreadableError: the file is damaged or in another format.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
        try:
            if is_zip:
                return _read_zip(path)
            return _read_stream(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except _DAMAGE as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from error


class _Zip:
    """Storages in a zip archive, ``ROOT/data/KEY``; ``torch.save`` packs none, so none grows past the file."""

    def __init__(self, path: Path, root: str) -> None:
        self._path, self._root = path, root
        self._left = path.stat().st_size  # overlapping entries would be more

    def read(self, key: str, size: int) -> bytearray:
        return self.entry(f"data/{key}")

    def entry(self, name: str) -> bytearray:
        with zipfile.ZipFile(self._path) as archive, self._path.open("rb") as file:
            entry = archive.getinfo(f"{self._root}{name}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > self._left:
                raise UnreadableError(f"{entry.filename} is packed or overlaps with others, as torch.save never does")
            self._left -= entry.file_size
            # Not archive.read: it checks sums, and torch can be told to write none.
            file.seek(entry.header_offset)
            file.seek(sum(_LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))), io.SEEK_CUR)
            return bytearray(file.read(entry.file_size))


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    main = min((name for name in names if f"/{name}".endswith("/data.pkl")), key=len, default=None)
    if main is None:
        raise UnreadableError("the zip archive has no data.pkl")
    source = _Zip(path, main.removesuffix("data.pkl"))
    if f"{main.removesuffix('data.pkl')}byteorder" in names and source.entry("byteorder") != b"little":
        raise UnreadableError("it was written on a big-endian machine")
    return _Storages(source).follow(io.BytesIO(source.entry("data.pkl")))


class _Legacy:
    """Storages behind the pickles of a legacy file: a list of keys, then for each a count and the values."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._places: dict[str, int] = {}

    def find(self, keys: list[str], sizes: dict[str, int]) -> None:
        """Find the values of each key; the stream is behind the list of keys, ``sizes`` are those of one value."""
        start = self._stream.tell()
        end = self._stream.seek(0, io.SEEK_END) or self._stream.tell()
        for key in keys:
            self._stream.seek(start)
            (count,) = struct.unpack("<q", self._stream.read(8))
            self._places[key] = start + 8
            start += 8 + count * sizes[key]
            if count < 0 or start > end:
                raise UnreadableError(f"storage {key!r} goes past the end of the file")

    def read(self, key: str, size: int) -> bytearray:
        self._stream.seek(self._places[key])
        return bytearray(self._stream.read(size))


def _read_stream(stream: Any, is_nested: bool = False) -> Any:
    source = _Legacy(stream)
    storages = _Storages(source, is_nested)
    first = storages.follow(stream)
    if first != _LEGACY:
        return first  # a plain pickle
    storages.follow(stream)  # the version of the format
    system = storages.follow(stream)
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise UnreadableError("it was written on a big-endian machine")
    content = storages.follow(stream)
    source.find([str(key) for key in storages.follow(stream)], storages.sizes)
    return content


class _Storages:
    """The storages that the pickles of one file name."""

    def __init__(self, source: Source, is_nested: bool = False) -> None:
        self._source = source
        self.sizes: dict[str, int] = {}  # bytes of one value, by key
        self._known: dict[tuple[str, str], Storage] = {}
        self._builders = dict(BUILDERS)
        if not is_nested:  # pickle writes each storage of a tensor as a legacy file of its own
            self._builders["torch.storage._load_from_bytes"] = _load_from_bytes

    def follow(self, stream: Any) -> Any:
        """The value of the next pickle."""
        return InertReader(stream, self._builders, VALUES, self._persistent).run()

    def _persistent(self, described: Any) -> Any:
        kind, *values = described
        if kind == "module":  # a class and its source text, in legacy files
            return values[0]
        storage, key, _, numel, *view = values
        name = getattr(storage, "name", "")
        if kind != "storage" or name not in STORAGES or type(numel) is not int or numel < 0 or view not in ([], [None]):
            raise UnreadableError(f"it has a storage {key!r} of an unknown kind, {storage}")
        self.sizes[str(key)] = STORAGES[name].itemsize
        return self._known.setdefault((str(key), name), Storage(self._source, str(key), STORAGES[name], numel))


def _load_from_bytes(content: Any) -> Any:
    return _read_stream(io.BytesIO(content), is_nested=True) if type(content) is bytes else None
