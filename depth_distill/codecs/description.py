"""A codec as plain data, to be written beside a network and read where that network runs."""

import math
from collections.abc import Mapping
from typing import Any

from depth_distill.codecs.base import HostCodec
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.codecs.expression import Expression, Notation, Symbolic, assignments, depth_expression
from depth_distill.codecs.single import HostSingle
from depth_distill.codecs.thermometer import HostThermometer
from depth_distill.codecs.two_part import HostIntegerFractional
from depth_distill.errors import ConfigError

_KINDS: dict[str, tuple[type[HostCodec], tuple[str, ...]]] = {
    "single": (HostSingle, ("encoding",)),
    "thermometer": (HostThermometer, ("encoding", "num_codes", "spacing")),
    "integer_fractional": (HostIntegerFractional, ("decoder", "integer", "fraction")),
}


def describe_codec(codec: HostCodec) -> dict[str, Any]:
    """Kind, depth range in metres, and what else makes two codecs of a kind differ: JSON, as is.

    Raises:
        ConfigError: a codec of a class that is not one of this package's.
    """
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
    """The codec that :func:`describe_codec` described.

    Raises:
        ConfigError: an unknown kind, or a key that is missing, unknown or of a wrong value.
    """
    values = dict(description)
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(f"codec.kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    cls, keys = _KINDS[kind]
    if values.keys() != {"min_depth_m", "max_depth_m", *keys}:
        expected = ", ".join(("min_depth_m", "max_depth_m", *keys))
        raise ConfigError(f"a codec of kind {kind} needs {expected}; received {', '.join(values) or 'nothing'}")
    near_m, far_m = (_number(values, key) for key in ("min_depth_m", "max_depth_m"))
    del values["min_depth_m"], values["max_depth_m"]
    return cls(DepthRange(near_m, far_m), **values)  # type: ignore[call-arg]


def formula(codec: HostCodec) -> str:
    """How codes become metres, in one line for people: ``depth_m = 0.5 * (15/0.5)^code``.

    Codes are clipped to [0, 1] before and depth to its range after. ``round`` takes halves to the even neighbour.
    """
    depth_m = depth_expression(codec, _Readable({"power", "sigmoid"}))
    last = {each.name: each for each in assignments(depth_m)}
    earlier = {each for each in assignments(depth_m) if each is not last[each.name]}  # they go on: one long sum
    steps = [each for each in last.values() if each.name not in codec.code_names]
    return "; ".join(f"{each.name} = {_FORMULA.write(each.parts[0], earlier)}" for each in steps)


class _Readable(Symbolic):
    """Leaves out what only catches a rounding error or a code beyond its range."""

    def clip(self, values: Any, low: Any, high: Any) -> Expression:
        """All values are inside."""
        return values


_FORMULA = Notation(
    lambda number: number.formula,
    {"where": ("{1} if {0} else {2}", 0), "power": ("{}^{}", 4), "sigmoid": ("1 / (1 + exp(-{}))", 3)},
)


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"codec.{key} must be a finite number, got {value!r}")
    return value
