"""The values that a stranger's pickle may build: tensors that stay in the file, NumPy arrays, plain containers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from depth_distill.models.inert_pickle import Stateful, UnreadableError, plain_key

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
"""Type of the values of a storage, by the name of its class."""

VALUES = {str(dtype): dtype for dtype in STORAGES.values()}
"""Names that stand for values."""

_MOST_REPEATED = 2**24  # values of a tensor that repeats those of a smaller storage


class Source(Protocol):
    """The part of a file in which the values lie."""

    def read(self, key: str, size: int) -> bytearray:
        """The first ``size`` bytes of a storage, or as many as there are."""


@dataclass(frozen=True, eq=False)
class Storage:
    """Values of one type in a file."""

    source: Source
    key: str
    dtype: torch.dtype
    numel: int

    def load(self) -> Tensor:
        """The values, flat.

        Raises:
            UnreadableError: there are fewer.
        """
        size = self.dtype.itemsize * self.numel
        content = self.source.read(self.key, size)
        if len(content) != size:
            raise UnreadableError(f"storage {self.key!r} has {len(content)} bytes, its tensors say {size}")
        return torch.frombuffer(content, dtype=self.dtype) if content else torch.empty(0, dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor whose values are still in the file."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def load(self, storages: dict[Storage, Tensor]) -> Tensor:
        """The tensor; ``storages`` keeps what was read, so that tensors that share values go on to do so.

        Raises:
            UnreadableError: the file has fewer values than the tensor.
        """
        if self.storage not in storages:
            storages[self.storage] = self.storage.load()
        flat = storages[self.storage].view(self.dtype)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        if last >= flat.numel() or math.prod(self.shape) > max(flat.numel(), _MOST_REPEATED):
            raise UnreadableError(f"a tensor of shape {self.shape} is larger than its storage of {flat.numel()} values")
        return flat.as_strided(self.shape, self.stride, self.offset)


@dataclass(eq=False)
class StoredArray(Stateful):
    """An array of NumPy as a tensor; ``value`` is None where it holds no numbers."""

    value: Tensor | None = None

    def set_state(self, state: Any) -> None:
        """Take version, shape, dtype, order and bytes."""
        _, shape, kind, is_fortran, content = state
        if not isinstance(kind, _ArrayType) or type(content) is not bytes or type(shape) is not tuple:
            return
        array = np.frombuffer(content, kind.code).reshape(shape, order="F" if is_fortran is True else "C")
        self.value = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


@dataclass(eq=False)
class _ArrayType(Stateful):
    """A dtype of numbers, as NumPy writes it."""

    code: str

    def set_state(self, state: Any) -> None:
        if type(state) is tuple and len(state) > 1 and state[1] in ("<", ">"):
            self.code = state[1] + self.code


_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


def _array_type(code: Any, *_: Any) -> _ArrayType | None:
    return _ArrayType(code) if type(code) is str and code in _NUMBERS else None


def _array_scalar(kind: Any, content: Any = None) -> Any:
    if not isinstance(kind, _ArrayType) or type(content) is not bytes:
        return None
    values = np.frombuffer(content, kind.code)
    return values[0].item() if len(values) == 1 else None


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor | None:
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(stride) is not tuple:
        return None
    if len(shape) != len(stride) or any(type(each) is not int or each < 0 for each in (offset, *shape, *stride)):
        return None
    return StoredTensor(storage, offset, shape, stride, storage.dtype)


def _tensor_of_type(
    storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any, *_: Any
) -> StoredTensor | None:
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        return None
    return _tensor(Storage(storage.source, storage.key, dtype, storage.numel // dtype.itemsize), offset, shape, stride)


def _parameter(value: Any, *_: Any) -> StoredTensor | None:
    return value if isinstance(value, StoredTensor) else None


def _dict(*arguments: Any) -> dict[Any, Any] | None:
    """Of a dict or of pairs; a ``defaultdict`` has its factory before them."""
    content = next((each for each in arguments if type(each) in (dict, list, tuple)), ())
    pairs = content.items() if type(content) is dict else content
    return {plain_key(key): value for key, value in pairs}


def _container(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def build(content: Any = ()) -> Any:
        return kind(content) if type(content) in (list, tuple) else None

    return build


def _keys(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    return _container(lambda content: kind(map(plain_key, content)))


def _encoded(text: Any, encoding: Any = "latin1") -> bytes | None:
    """How protocol 2 writes bytes."""
    return text.encode("latin1") if type(text) is str and encoding == "latin1" else None


BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _container(tuple),
    "torch.device": lambda *kind: ":".join(map(str, kind)),
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _dict,
    "_codecs.encode": _encoded,
    "numpy.dtype": _array_type,
}
"""By full name, what a call gives."""
for _module in ("builtins", "__builtin__"):
    BUILDERS |= {
        f"{_module}.set": _keys(set), f"{_module}.frozenset": _keys(frozenset), f"{_module}.list": _container(list),
        f"{_module}.tuple": _container(tuple), f"{_module}.dict": _dict,
    }  # fmt: skip
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    BUILDERS |= {f"{_module}._reconstruct": lambda *_: StoredArray(), f"{_module}.scalar": _array_scalar}
