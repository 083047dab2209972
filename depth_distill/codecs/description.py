"""A codec as plain data, which is stored with a network, and as a formula."""

import math
from collections.abc import Mapping
from typing import Any

from depth_distill.codecs.base import HostCodec
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.codecs.expression import Expression, Notation, Symbolic, assignments, depth_expression
from depth_distill.codecs.pair import HostPair
from depth_distill.codecs.single import HostSingle
from depth_distill.codecs.table import HostTable
from depth_distill.codecs.thermometer import HostThermometer
from depth_distill.codecs.two_part import HostIntegerFractional
from depth_distill.codecs.unknown import HostUnknown
from depth_distill.errors import ConfigError

_KINDS: dict[str, tuple[type[HostCodec], tuple[str, ...]]] = {
    "single": (HostSingle, ("encoding",)),
    "thermometer": (HostThermometer, ("encoding", "num_codes", "spacing")),
    "pair": (HostPair, ("encoding", "num_clips", "spacing")),
    "integer_fractional": (HostIntegerFractional, ("decoder", "integer", "fraction")),
}
_TABLE = "table"  # before another codec
_UNKNOWN = "unknown"  # without a depth range, and so without any other key


def describe_codec(codec: HostCodec) -> dict[str, Any]:
    """Kind, depth range in metres and other parameters of a codec, as JSON.

    Raises:
        ConfigError: the codec is of a class outside this package.
    """
    if isinstance(codec, HostUnknown):
        return {"kind": _UNKNOWN}
    if isinstance(codec, HostTable):
        return {"kind": _TABLE, "codec": describe_codec(codec.inner), "tables": [list(each) for each in codec.tables]}
    for kind, (cls, keys) in _KINDS.items():
        if type(codec) is cls:
            values = {key: getattr(codec, key) for key in keys}
            return {
                "kind": kind,
                "min_depth_m": codec.depth_range.min_m,
                "max_depth_m": codec.depth_range.max_m,
                **values,
            }
    raise ConfigError(f"a codec of class {type(codec).__name__} cannot be described; known are {', '.join(_KINDS)}")


def codec_of(description: Mapping[str, Any]) -> HostCodec:
    """The codec of a description from :func:`describe_codec`.

    Raises:
        ConfigError: the kind is unknown, or a key is missing, unknown or invalid.
    """
    values = dict(description)
    kind = values.pop("kind", None)
    if kind == _UNKNOWN and not values:
        return HostUnknown()
    if not isinstance(kind, str) or kind not in (*_KINDS, _TABLE, _UNKNOWN):
        raise ConfigError(f"codec.kind must be one of {', '.join((*_KINDS, _TABLE, _UNKNOWN))}, got {kind!r}")
    if kind == _UNKNOWN:
        raise ConfigError(f"a codec of kind {_UNKNOWN} has no other key; received {', '.join(values)}")
    if kind == _TABLE:
        inner, tables = values.pop("codec", None), values.pop("tables", None)
        if values or not isinstance(inner, Mapping) or not isinstance(tables, list):
            raise ConfigError(f"a codec of kind {_TABLE} needs codec and tables; received {', '.join(description)}")
        return HostTable(codec_of(inner), tables)
    cls, keys = _KINDS[kind]
    if values.keys() != {"min_depth_m", "max_depth_m", *keys}:
        expected = ", ".join(("min_depth_m", "max_depth_m", *keys))
        raise ConfigError(f"a codec of kind {kind} needs {expected}; received {', '.join(values) or 'nothing'}")
    near_m, far_m = (_number(values, key) for key in ("min_depth_m", "max_depth_m"))
    del values["min_depth_m"], values["max_depth_m"]
    return cls(DepthRange(near_m, far_m), **values)  # type: ignore[call-arg]


def formula(codec: HostCodec) -> str:
    """The decoding formula in one readable line: ``depth_m = 0.5 * (15/0.5)^code``.

    Codes are clipped to [0, 1] before, and depth to its range after. ``round`` rounds halves to even.
    """
    depth_m = depth_expression(codec, _Readable({"power", "sigmoid", "interpolated"}))
    last = {each.name: each for each in assignments(depth_m)}
    earlier = {each for each in assignments(depth_m) if each is not last[each.name]}  # continued: parts of one long sum
    steps = [each for each in last.values() if each.name not in codec.code_names]
    return "; ".join(f"{each.name} = {_FORMULA.write(each.parts[0], earlier)}" for each in steps)


class _Readable(Symbolic):
    """Leaves out clips, which only handle rounding errors and codes outside [0, 1]."""

    def clip(self, values: Any, low: Any, high: Any) -> Expression:
        """The values, which are taken to be in range."""
        return values


_FORMULA = Notation(
    lambda number: number.formula,
    {
        "where": ("{1} if {0} else {2}", 0),
        "power": ("{}^{}", 4),
        "sigmoid": ("1 / (1 + exp(-{}))", 3),
        "interpolated": ("{1}({0})", 8),
    },
)


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"codec.{key} must be a finite number, got {value!r}")
    return value
