"""A codec as plain data, to be written beside a network and read where that network runs."""

from collections.abc import Mapping
from typing import Any

from depth_distill.codecs.base import HostCodec
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.codecs.single import HostSingle
from depth_distill.codecs.thermometer import HostThermometer
from depth_distill.codecs.two_part import HostIntegerFractional, HostSplit
from depth_distill.errors import ConfigError

_KINDS: dict[str, tuple[type[HostCodec], tuple[str, ...]]] = {
    "single": (HostSingle, ("encoding",)),
    "thermometer": (HostThermometer, ("encoding", "levels", "spread")),
    "integer_fractional": (HostIntegerFractional, ("decoder", "integer", "fraction")),
    "split": (HostSplit, ("encoding", "parts")),
}


def describe_codec(codec: HostCodec) -> dict[str, Any]:
    """Kind, depth range in metres, and what else makes two codecs of a kind differ: JSON, as is.

    Raises:
        ConfigError: a codec of a class that is not one of this package's.
    """
    for kind, (cls, keys) in _KINDS.items():
        if type(codec) is cls:
            values = {key: codec.channels if key == "levels" else getattr(codec, key) for key in keys}
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
    if kind not in _KINDS:
        raise ConfigError(f"codec.kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    cls, keys = _KINDS[kind]
    if values.keys() != {"min_depth_m", "max_depth_m", *keys}:
        expected = ", ".join(("min_depth_m", "max_depth_m", *keys))
        raise ConfigError(f"a codec of kind {kind} needs {expected}; received {', '.join(values) or 'nothing'}")
    depth_range = DepthRange(values.pop("min_depth_m"), values.pop("max_depth_m"))
    return cls(depth_range, **values)  # type: ignore[call-arg]
