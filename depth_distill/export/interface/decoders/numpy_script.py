"""``decode.py``: the codec of one network in NumPy."""

import textwrap
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from depth_distill.codecs import HostCodec
from depth_distill.codecs.expression import Array, Notation, Variable, depth_expression
from depth_distill.export.interface.decoders.language import STEPS, Language, formula_lines, sigmoid_of_logits
from depth_distill.quantization.interface import OutputLayout


def numpy_script(codec: HostCodec, layout: OutputLayout, note: str = "", name: str = "decode.py") -> str:
    """The text of ``decode.py``.

    Args:
        codec: codec of the network.
        layout: layout of the network's outputs.
        note: which files' outputs it decodes.
        name: name of the file.
    """
    depth_m, together = depth_expression(codec, STEPS), Variable("together")
    codes = sigmoid_of_logits(together) if layout.logits else together
    channels = dict(zip(layout.names, layout.channels, strict=True))
    return _SCRIPT.format(
        codec=str(codec),
        formula=formula_lines(codec, " " * 9),
        outputs=" and ".join(f"{name} ({count}, H, W)" for name, count in channels.items()),
        note="".join(f"\n{line}" for line in textwrap.wrap(note, 118)) + "\n" * bool(note),
        logits=_LOGITS_NOTE if layout.logits else "",
        name=name,
        header=name.replace(".py", ".h"),
        near=_decimal(codec.near_m),
        far=_decimal(codec.far_m),
        count=codec.channels,
        channels=channels,
        functions=_PYTHON.functions(depth_m, codes),
        body=textwrap.indent("\n".join(_PYTHON.lines(depth_m)), "    "),
        to_codes=_PYTHON.notation.write(codes),
    )


def _decimal(value: float) -> str:
    """The shortest decimal that is rounded to this float32."""
    return str(float(str(np.float32(value))))


_WHOLE_POWER_OF_TWO = """
def _whole_power_of_two(whole: np.ndarray) -> np.ndarray:
    # Assembled from bits; converting NaN to an integer would be undefined.
    exponent = np.where(np.isnan(whole), 0, whole).astype(np.int32)
    return ((exponent + 127) << 23).view(np.float32)

"""
_ELEMENT = """
def _element(places: np.ndarray, table: np.ndarray) -> np.ndarray:
    # NaN is nowhere: the arithmetic around keeps it.
    return table[np.where(np.isnan(places), 0, places).astype(np.int32)]

"""
_NAMES = {"clip": "np.clip", "round": "np.round", "where": "np.where", "abs": "abs"}


class _Python(Language):
    notation = Notation(lambda number: _decimal(number.value), {}, lambda name: _NAMES.get(name, f"_{name}"))
    primitives = MappingProxyType({"whole_power_of_two": _WHOLE_POWER_OF_TWO, "element": _ELEMENT})

    def assignment(self, variable: Variable, value: str, first: bool, last: bool) -> str:
        return f"{variable.name} = {value}" + (f"  # {variable.note}" if variable.note else "")

    def array(self, array: Array) -> str:
        values = textwrap.indent(textwrap.fill(", ".join(map(_decimal, array.values)), 112), "    ")
        return f"\n_{array.name} = np.array([\n{values}\n], np.float32)\n"

    def definition(self, name: str, parameters: Sequence[str], note: str, lines: Sequence[str], result: str) -> str:
        values, *numbers = parameters
        of = ", ".join([f"{values}: np.ndarray", *(f"{each}: float" for each in numbers)])
        quotes = '"' * 3
        end = "" if "\n" not in note else "\n"
        body = "\n".join([f"{quotes}{note}{end}{quotes}", *lines, f"return {result}"])
        return f"\ndef _{name}({of}) -> np.ndarray:\n{textwrap.indent(body, '    ')}\n\n"


_PYTHON = _Python()

_LOGITS_NOTE = """
The network stops before its sigmoid: `codes_of` applies it.
"""

_SCRIPT = '''\
"""Decode the outputs of the network to metres. NumPy only: copy this file to the host.

Codec:   {codec}
Outputs: {outputs}
Formula: {formula}
{note}{logits}
In Python:         decode(codes_of({{name: array, ...}}))
On a command line: python {name} outputs.npz depth.npy

If a runtime returns integers, call `dequantize` first, with the scale and zero point of each output. The arithmetic is
float32 in a fixed order, so that every machine, and {header}, gives the same bits.
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
    codes = np.split(np.clip(codes, 0.0, 1.0), CODES, axis=-3)  # each (..., 1, H, W)
{body}
    return np.clip(depth_m, MIN_DEPTH_M, MAX_DEPTH_M)


def codes_of(outputs: dict) -> np.ndarray:
    """Codes ``(..., {count}, H, W)`` from float outputs by name."""
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
    """Dequantize integers from a runtime: ``(raw - zero_point) * scale``."""
    return (np.asarray(raw).astype(np.int32) - np.int32(zero_point)).astype(np.float32) * np.float32(scale)

{functions}
def main() -> int:
    """Decode one file."""
    parser = argparse.ArgumentParser(description="Outputs of the network to depth in metres.")
    parser.add_argument("outputs", help=".npz file with the arrays " + ", ".join(OUTPUTS))
    parser.add_argument("depth", help=".npy file to write: (..., 1, H, W) float32 metres")
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
