"""A codec behind a decode table: what a device's codes mean, where they are not those of the float network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs.arithmetic import Array, Constants, as_array, element, float32, interpolated, named
from depth_distill.codecs.base import HostCodec, rounded_codes
from depth_distill.errors import ConfigError

_MOST_ENTRIES = 4096


class HostTable(HostCodec):
    """Each code goes through a table of its own before the codec of the network decodes it.

    A table is a function of the device's code that never turns, given at evenly spaced codes from 0 to 1 and linear
    between: with 256 entries, one for each code of 8 bits. It falls where 1 is near in a network, as it is far in every
    codec. A table undoes what a tool chain did to the output of a network, such as a sigmoid that was computed as a
    hard sigmoid (:mod:`depth_distill.codecs.table_fit` measures it).

    Args:
        inner: codec of the float network.
        tables: one per code, each with 2 or more numbers in [0, 1] that never turn.

    Raises:
        ConfigError: there are more or fewer tables than codes, or one is not as described.
    """

    def __init__(self, inner: HostCodec, tables: Sequence[Sequence[float]]) -> None:
        if isinstance(inner, HostTable):
            raise ConfigError("a decode table goes before the codec of a network, not before another decode table")
        if len(tables) != inner.channels:
            raise ConfigError(f"expected one decode table per code ({inner.channels}), received {len(tables)}")
        for place, each in enumerate(tables):
            _check(place, each)
        self.inner = inner
        self.depth_range = inner.depth_range
        self.channels = inner.channels
        self.tables = tuple(tuple(float32(value) for value in each) for each in tables)

    def __str__(self) -> str:
        return f"{self.inner}, behind a decode table of {' and '.join(str(len(each)) for each in self.tables)} entries"

    @property
    def code_names(self) -> tuple[str, ...]:
        """Those of the device's codes."""
        return tuple(f"device_{name}" if name.isidentifier() else f"device_code_{k}" for k, name in self._inner_names)

    def grid_m(self, bits: int = 8) -> NDArray[np.float32]:
        """The depths that the codes of the inner codec's grid mean behind the table, ascending."""
        codes = self.inner.encode(self.inner.grid_m(bits).reshape(1, 1, -1))
        steps = np.float32(len(rounded_codes(1, bits)) - 1)
        return np.unique(self.decode(np.rint(codes * steps) / steps))

    def encode_with(self, xp: Any, depth_m: Array) -> Array:
        """The device's codes that mean a depth, one of them where several do."""
        codes = self.inner.encode_with(xp, depth_m)
        found = []
        for k, table in enumerate(self._constants):
            values = codes[..., k : k + 1, :, :]
            if table.values[-1] >= table.values[0]:
                found.append(_inverse(xp, values, table))
            else:
                found.append(1.0 - _inverse(xp, values, Constants(table.name, table.values[::-1])))
        return xp.concatenate(found, -3)

    def corrected(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """The float network's codes ``(..., channels, H, W)``, from those of the device."""
        return np.asarray(self._behind(np, np.clip(np.asarray(codes, np.float32), 0, 1)))

    def depth_of(self, xp: Any, codes: Sequence[Array]) -> Array:
        """Depth from the device's codes."""
        behind = [
            named(xp, _plain(k, name), interpolated(xp, code, table))
            for (k, name), code, table in zip(self._inner_names, codes, self._constants, strict=True)
        ]
        return self.inner.depth_of(xp, behind)

    def slopes_with(self, xp: Any, codes: Array) -> Array:
        """Slopes of the inner codec times those of the tables."""
        codes = xp.clip(codes, 0.0, 1.0)
        each = [codes[..., k : k + 1, :, :] for k in range(self.channels)]
        rises = []
        for code, table in zip(each, self._constants, strict=True):
            steps = len(table.values) - 1
            below = xp.clip(xp.round(code * float(steps) - 0.5), 0.0, float(steps - 1))
            rises.append((element(xp, below + 1.0, table) - element(xp, below, table)) * float(steps))
        return self.inner.slopes_with(xp, self._behind(xp, codes)) * xp.concatenate(rises, -3)

    def _behind(self, xp: Any, codes: Array) -> Array:
        each = [codes[..., k : k + 1, :, :] for k in range(self.channels)]
        behind = [interpolated(xp, code, table) for code, table in zip(each, self._constants, strict=True)]
        return xp.concatenate(behind, -3)

    @property
    def _constants(self) -> tuple[Constants, ...]:
        return tuple(Constants(f"table_{k}", values) for k, values in enumerate(self.tables))

    @property
    def _inner_names(self) -> list[tuple[int, str]]:
        return list(enumerate(self.inner.code_names))


def _inverse(xp: Any, values: Array, table: Constants) -> Array:
    """The lowest place in [0, 1] at which a rising table has each value; its ends for values beyond it."""
    last = float(len(table.values) - 1)
    after = xp.searchsorted(as_array(xp, table, values), values)
    after = xp.clip(xp.asarray(after, dtype=xp.float32), 1.0, last)
    low, high = element(xp, after - 1.0, table), element(xp, after, table)
    rise = xp.where(high > low, high - low, xp.full_like(low, 1.0))
    share = xp.where(high > low, xp.clip((values - low) / rise, 0.0, 1.0), xp.full_like(low, 0.0))
    return (after - 1.0 + share) / xp.full_like(low, last)


def _plain(k: int, name: str) -> str:
    return name if name.isidentifier() else f"code_{k}"


def _check(place: int, table: Sequence[float]) -> None:
    try:
        values = np.asarray(table)
    except ValueError as error:  # lists of different lengths
        raise ConfigError(f"decode table {place}: expected a list of numbers") from error
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not 2 <= len(values) <= _MOST_ENTRIES:
        raise ConfigError(f"decode table {place}: expected a list of 2 to {_MOST_ENTRIES} numbers")
    if not bool(np.isfinite(values).all()) or values.min() < 0 or values.max() > 1:
        raise ConfigError(f"decode table {place}: expected numbers in [0, 1]")
    wrong = np.flatnonzero(np.diff(values) * (1 if values[-1] >= values[0] else -1) < 0)
    if len(wrong):
        at = int(wrong[0])
        raise ConfigError(
            f"decode table {place} turns: {values[at]:g} is followed by {values[at + 1]:g} behind entry {at}; larger "
            "codes must mean depth that goes one way"
        )
