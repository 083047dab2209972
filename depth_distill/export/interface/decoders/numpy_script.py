"""``decode.py``: the codec of one network in NumPy."""

import math
import re
from collections.abc import Mapping

import numpy as np

from depth_distill.codecs import HostCodec, HostIntegerFractional, HostSingle, HostThermometer, formula
from depth_distill.codecs.arithmetic import POWER_SERIES, float32, split_factor
from depth_distill.quantization.interface import OutputLayout


def numpy_script(codec: HostCodec, layout: OutputLayout) -> str:
    """The text of ``decode.py``.

    Args:
        codec: of the network.
        layout: what leaves the network.

    Raises:
        ConfigError: a codec of a class that is not one of the package's.
    """
    body = _body(codec)
    to_codes = "_saturating_sigmoid(together)" if layout.logits else "together"
    return _SCRIPT.format(
        codec=str(codec),
        formula=formula(codec).replace("; ", "\n         "),
        outputs=" and ".join(f"{name} ({channels}, H, W)" for name, channels in _outputs(layout)),
        logits=_LOGITS_NOTE if layout.logits else "",
        near=_number(codec.near_m),
        far=_number(codec.far_m),
        count=codec.channels,
        channels=dict(_outputs(layout)),
        functions=needed_functions(_FUNCTIONS, f"{body}\n{to_codes}"),
        body=body,
        to_codes=to_codes,
    )


def needed_functions(functions: Mapping[str, str], text: str) -> str:
    """Those of the functions, by name and each after those that it calls, that the text calls, directly or not."""
    chosen = ""
    for name, function in reversed(list(functions.items())):
        if re.search(rf"\b{name}\(", chosen + text):
            chosen = function + chosen
    return chosen


def _outputs(layout: OutputLayout) -> list[tuple[str, int]]:
    return list(zip(layout.names, layout.channels, strict=True))


def _body(codec: HostCodec) -> str:
    """The lines of ``decode``, from clipped ``codes`` to ``depth_m``."""
    if isinstance(codec, HostThermometer):
        lines = [
            f"widths = {_numbers(codec.widths)}",
            f"position = codes[..., :1, :, :] * widths[0] + {_number(codec.knots[0])}",
            "for k in range(1, CODES):  # in this order: sums of floats depend on it",
            "    position = position + codes[..., k : k + 1, :, :] * widths[k]",
        ]
        lines += ["position = _sigmoid(position)"] * (codec.spacing == "logit")
        lines += ["code = np.clip(position, 0.0, 1.0)", *_single(codec.single)]
    elif isinstance(codec, HostIntegerFractional):
        lines = [
            f"integer, fraction = codes[..., :1, :, :] * {_number(codec.metres)}, codes[..., 1:, :, :]",
            *_integer_fractional(codec),
        ]
    else:
        assert isinstance(codec, HostSingle)
        lines = ["code = codes", *_single(codec)]
    return "\n".join(f"    {line}" for line in lines)


def _single(codec: HostSingle) -> list[str]:
    near, span = _number(codec.near_m), _number(codec.span_m)
    if codec.encoding == "linear":
        return [f"depth_m = code * {span} + {near}"]
    if codec.encoding == "inverse":
        product = _number(float32(codec.near_m * codec.far_m))
        return [f"depth_m = np.float32({product}) / ((1.0 - code) * {span} + {near})"]
    parts = ", ".join(map(_number, split_factor(codec.octaves)))
    return [f"depth_m = _power_of_two(code, {parts}) * {near}"]


def _integer_fractional(codec: HostIntegerFractional) -> list[str]:
    if codec.decoder == "sum":
        return ["depth_m = integer + fraction"]
    if codec.decoder == "round":
        if codec.fraction == "sawtooth":
            return ["depth_m = np.round(integer) + fraction"]
        return [
            "whole = np.round(integer)",
            "odd = np.mod(whole, 2) == 1  # where the fraction falls with depth",
            "depth_m = whole + np.where(odd, 1.0 - fraction, fraction)",
        ]
    lines = ["coarse_m = integer + 0.5" if codec.integer == "floor" else "coarse_m = integer"]
    if codec.fraction == "sawtooth":
        return [*lines, "depth_m = np.round(coarse_m - fraction) + fraction"]
    return [
        *lines,
        "rising = np.round((coarse_m - fraction) * 0.5) * 2.0 + fraction",
        "falling = np.round((coarse_m + fraction) * 0.5) * 2.0 - fraction",
        "depth_m = np.where(abs(rising - coarse_m) <= abs(falling - coarse_m), rising, falling)",
    ]


def _number(value: float) -> str:
    """The shortest decimal that is this float32."""
    return str(float(str(np.float32(value))))


def _numbers(values: list[float]) -> str:
    return f"[{', '.join(map(_number, values))}]"


_POWER_OF_TWO = f'''
def _power_of_two(values: np.ndarray, grid: float, high: float, low: float, factor: float) -> np.ndarray:
    """``2 ** (values * factor)`` by sums, products and roundings alone: ``exp2`` differs between machines.

    ``high + low`` is the factor, and values are split at multiples of ``1 / grid``, so that ``product_high`` is exact.
    """
    values_high = np.round(values * grid) * (1 / grid)
    product_high = values_high * high
    product_low = values_high * low + (values - values_high) * factor
    whole = np.round(product_high)
    rest = (product_high - whole) + product_low
    power = np.full_like(rest, {_number(POWER_SERIES[-1])})
    for coefficient in {_numbers(list(reversed(POWER_SERIES[:-1])))}:  # 2 ** rest
        power = power * rest + np.float32(coefficient)
    exponent = np.where(np.isnan(whole), 0, whole).astype(np.int32)
    return power * ((exponent + 127) << 23).view(np.float32)

'''

_SIGMOID = f'''
def _sigmoid(values: np.ndarray) -> np.ndarray:
    """``1 / (1 + exp(-x))`` of at most 16 in magnitude."""
    power = _power_of_two(values, {", ".join(map(_number, split_factor(-1 / math.log(2), 16)))})
    return np.float32(1.0) / (power + 1.0)

'''

_SATURATING_SIGMOID = f'''
def _saturating_sigmoid(logits: np.ndarray) -> np.ndarray:
    """``1 / (1 + exp(-x))``; below -32 it stays at 1.3e-14, which no depth can tell from 0."""
    values = np.clip(logits, -32.0, 32.0)
    power = _power_of_two(values, {", ".join(map(_number, split_factor(-1 / math.log(2), 32)))})
    return np.float32(1.0) / (power + 1.0)

'''

_FUNCTIONS = {
    "_power_of_two": _POWER_OF_TWO,
    "_sigmoid": _SIGMOID,
    "_saturating_sigmoid": _SATURATING_SIGMOID,
}

_LOGITS_NOTE = """
The network stops before its sigmoid: `codes_of` applies it.
"""

_SCRIPT = '''\
"""Turn what leaves the network into metres. NumPy only: copy this file to the host.

Codec:   {codec}
Outputs: {outputs}
Formula: {formula}
{logits}
In Python:         decode(codes_of({{name: array, ...}}))
On a command line: python decode.py outputs.npz depth.npy

A runtime that gives integers needs `dequantize` first, with the scale and zero point of each output. The arithmetic is
float32 in a fixed order, so that every machine, and decode.h beside this file, gives the same bits.
"""

import argparse
import os
import sys

import numpy as np

MIN_DEPTH_M = {near}
MAX_DEPTH_M = {far}
CODES = {count}
OUTPUTS = {channels}  # channels of each output


def decode(codes: np.ndarray) -> np.ndarray:
    """Depth ``(..., 1, H, W)`` in metres of codes ``(..., {count}, H, W)``, which are clipped to [0, 1]; NaN stays."""
    codes = np.asarray(codes, np.float32)
    if codes.ndim < 3 or codes.shape[-3] != CODES:
        raise ValueError("codes have the shape %s, expected (..., %d, H, W)" % (codes.shape, CODES))
    codes = np.clip(codes, 0.0, 1.0)
{body}
    return np.clip(depth_m, MIN_DEPTH_M, MAX_DEPTH_M)


def codes_of(outputs: dict) -> np.ndarray:
    """Codes ``(..., {count}, H, W)`` of float outputs by name."""
    for name, channels in OUTPUTS.items():
        if name not in outputs:
            raise ValueError("there is no output %r; received %s" % (name, ", ".join(outputs) or "none"))
        shape, dtype = np.shape(outputs[name]), np.asarray(outputs[name]).dtype
        if len(shape) < 3 or shape[-3] != channels:
            raise ValueError("output %r has the shape %s, expected (..., %d, H, W)" % (name, shape, channels))
        if not np.issubdtype(dtype, np.floating):
            raise ValueError("output %r is %s, expected floats: dequantize it first" % (name, dtype))
    together = np.concatenate([np.asarray(outputs[name], np.float32) for name in OUTPUTS], axis=-3)
    return {to_codes}


def dequantize(raw: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Floats of the integers of a runtime: ``(raw - zero_point) * scale``."""
    return (np.asarray(raw).astype(np.int32) - np.int32(zero_point)).astype(np.float32) * np.float32(scale)

{functions}
def main() -> int:
    """Decode one file."""
    parser = argparse.ArgumentParser(description="Outputs of the network to depth in metres.")
    parser.add_argument("outputs", help=".npz with the arrays " + ", ".join(OUTPUTS))
    parser.add_argument("depth", help=".npy to write: (..., 1, H, W) float32 metres")
    arguments = parser.parse_args()
    try:
        with np.load(arguments.outputs, allow_pickle=False) as arrays:
            depth_m = decode(codes_of(dict(arrays)))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        print("%s: %s" % (arguments.outputs, error), file=sys.stderr)
        return 1
    with open(arguments.depth + ".part", "wb") as file:
        np.save(file, depth_m)
    os.replace(arguments.depth + ".part", arguments.depth)
    print("%s: %s, %.3f to %.3f m" % (arguments.depth, depth_m.shape, np.nanmin(depth_m), np.nanmax(depth_m)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''
