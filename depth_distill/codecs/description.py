"""A codec as plain data, to be written beside a network and read where that network runs."""

import math
from collections.abc import Mapping
from typing import Any

from depth_distill.codecs.base import HostCodec
from depth_distill.codecs.depth_range import DepthRange
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

    Codes are clipped to [0, 1] before and depth to its range after. One code is ``code``, several are ``codes``, and
    those of a two-part codec ``integer`` and ``fractional``. ``round`` takes halves to the even neighbour.

    Raises:
        ConfigError: a codec of a class that is not one of this package's.
    """
    if isinstance(codec, HostThermometer):
        if codec.spacing == "uniform":
            return f"u = sum(codes) / {codec.channels}; {_of_single(codec.single, 'u')}"
        knots = ", ".join(f"{knot:.7g}" for knot in codec.knots)
        filled = "x[0] + sum(code * (b - a) for code, a, b in zip(codes, x, x[1:]))"
        return f"x = [{knots}]; u = 1 / (1 + exp(-({filled}))); {_of_single(codec.single, 'u')}"
    if isinstance(codec, HostIntegerFractional):
        return _of_integer_fractional(codec)
    if isinstance(codec, HostSingle):
        return _of_single(codec, "code")
    raise ConfigError(f"a codec of class {type(codec).__name__} has no formula; known are {', '.join(_KINDS)}")


def _of_single(codec: HostSingle, code: str) -> str:
    near, far = f"{codec.depth_range.min_m:.9g}", f"{codec.depth_range.max_m:.9g}"
    if codec.encoding == "linear":
        return f"depth_m = {near} + ({far} - {near}) * {code}"
    if codec.encoding == "inverse":
        return f"depth_m = 1 / (1/{near} + (1/{far} - 1/{near}) * {code})"
    return f"depth_m = {near} * ({far}/{near})^{code}"


def _of_integer_fractional(codec: HostIntegerFractional) -> str:
    coarse = f"{codec.metres} * integer"
    if codec.decoder == "sum":
        return f"depth_m = {coarse} + fractional"
    if codec.decoder == "round" and codec.fraction == "sawtooth":
        return f"depth_m = round({coarse}) + fractional"
    if codec.decoder == "round":
        return f"whole = round({coarse}); depth_m = whole + (1 - fractional if whole % 2 else fractional)"
    if codec.integer == "floor":
        coarse = f"{coarse} + 0.5"
    if codec.fraction == "sawtooth":
        return f"depth_m = round({coarse} - fractional) + fractional"
    return (
        f"coarse = {coarse}; rising = 2 * round((coarse - fractional) / 2) + fractional; "
        "falling = 2 * round((coarse + fractional) / 2) - fractional; "
        "depth_m = rising if abs(rising - coarse) <= abs(falling - coarse) else falling"
    )


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"codec.{key} must be a finite number, got {value!r}")
    return value
