"""Sequences whose items are made when they are asked for, so that a data set needs no memory of its size."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

ROOM_BYTES = 2**30
"""What a :class:`Streamed` sequence keeps at most: small sets are read once, and large ones each time."""

_T = TypeVar("_T")
_S = TypeVar("_S")


class Mapped(Sequence[_T], Generic[_S, _T]):
    """A function of each item of a sequence, or of some of them; nothing is kept.

    Args:
        function: what is done to an item.
        source: the items.
        positions: which of them, and in which order; all unless given.
    """

    def __init__(self, function: Callable[[_S], _T], source: Sequence[_S], positions: Sequence[int] | None = None):
        self._function, self._source = function, source
        self._positions = range(len(source)) if positions is None else positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, where: int) -> _T: ...
    @overload
    def __getitem__(self, where: slice) -> "Mapped[_S, _T]": ...
    def __getitem__(self, where: int | slice) -> Any:
        if isinstance(where, slice):
            return Mapped(self._function, self._source, self._positions[where])
        return self._function(self._source[self._positions[where]])

    def __iter__(self) -> Iterator[_T]:
        if self._positions == range(len(self._source)):
            return map(self._function, self._source)
        return (self._function(self._source[position]) for position in self._positions)


class Streamed(Sequence[_T]):
    """Items that are made again each time, except for the last one, and for as many as there is room for.

    Args:
        length: number of items.
        make: makes the items at some positions, in that order.
        size_bytes: memory that an item takes.
    """

    def __init__(
        self, length: int, make: Callable[[Sequence[int]], Iterator[_T]], size_bytes: Callable[[_T], int]
    ) -> None:
        self._length, self._make, self._size_bytes = length, make, size_bytes
        self._kept: dict[int, _T] = {}
        self._last: tuple[int, _T] | None = None
        self._room = ROOM_BYTES

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, where: int) -> _T: ...
    @overload
    def __getitem__(self, where: slice) -> Mapped[_T, _T]: ...
    def __getitem__(self, where: int | slice) -> Any:
        if isinstance(where, slice):
            return Mapped(_as_it_is, self, range(self._length)[where])
        position = range(self._length)[where]
        if position in self._kept:
            return self._kept[position]
        if self._last is None or self._last[0] != position:
            self._take(position, next(iter(self._make([position]))))
        assert self._last is not None
        return self._last[1]

    def __iter__(self) -> Iterator[_T]:
        missing = [position for position in range(self._length) if position not in self._kept]
        made = iter(self._make(missing)) if missing else iter(())
        later = set(missing)
        for position in range(self._length):
            yield self._take(position, next(made)) if position in later else self._kept[position]

    def _take(self, position: int, item: _T) -> _T:
        self._last = (position, item)
        if position not in self._kept and self._size_bytes(item) <= self._room:
            self._kept[position] = item
            self._room -= self._size_bytes(item)
        return item


def _as_it_is(item: _T) -> _T:
    return item
