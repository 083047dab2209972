"""``decode.h``: the codec of one network in C99."""

import re
import textwrap
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from depth_distill.codecs import HostCodec
from depth_distill.codecs.arithmetic import float32
from depth_distill.codecs.expression import Array, Notation, Operation, Variable, depth_expression
from depth_distill.export.interface.decoders.integer_codes import WHOLE_RANGE, IntegerCodes, integer_codes_of
from depth_distill.export.interface.decoders.language import STEPS, Language, formula_lines, sigmoid_of_logits
from depth_distill.quantization.interface import OutputLayout


def c_header(
    codec: HostCodec,
    layout: OutputLayout,
    integers: IntegerCodes | None = WHOLE_RANGE,
    note: str = "",
    name: str = "decode.h",
) -> str:
    """The text of ``decode.h``.

    Args:
        codec: codec of the network.
        layout: layout of the network's outputs.
        integers: 8-bit integers of the one output, see :func:`integer_codes_of`.
        note: which files' outputs it decodes.
        name: name of the file.
    """
    depth_m, plane = depth_expression(codec, STEPS), Variable("planes[k][i]")
    code = sigmoid_of_logits(plane) if layout.logits else plane
    known = integer_codes_of(codec, layout, integers)
    values = {
        "codec": str(codec),
        "formula": formula_lines(codec, " *          "),
        "near": _hexadecimal(codec.near_m),
        "far": _hexadecimal(codec.far_m),
        "count": str(codec.channels),
        "outputs": str(len(layout.names)),
        "names": ", ".join(f'"{name}"' for name in layout.names),
        "channels": ", ".join(map(str, layout.channels)),
        "logits": str(int(layout.logits)),
        "logits_note": _LOGITS_NOTE if layout.logits else "",
        "functions": _C.functions(depth_m, code),
        "body": textwrap.indent("\n".join(_C.lines(depth_m)), "    "),
        "to_code": _C.notation.write(code),
        "note": _comment(note),
        "script": name.replace(".h", ".py"),
        "guard": f"DD_{name.upper().replace('.', '_')}",
        "of_integers": "" if codec.channels != 1 else _fill_functions(layout),
        "table": "" if known is None else _integer_table(codec, layout, known),
    }
    text = _HEADER
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _comment(note: str) -> str:
    """A paragraph of the comment at the top."""
    return "".join(f"\n * {line}" for line in textwrap.wrap(note, 112)) + "\n *" * bool(note)


def _fill_functions(layout: OutputLayout) -> str:
    value = Variable("value")
    code = _C.notation.write(sigmoid_of_logits(value) if layout.logits else value)
    return "".join(
        _FILL.replace("@bits@", bits).replace("@type@", kind).replace("@code@", code)
        for bits, kind in (("u8", "uint8_t"), ("i8", "int8_t"))
    )


def _integer_table(codec: HostCodec, layout: OutputLayout, integers: IntegerCodes) -> str:
    listed = ", ".join(map(_literal, integers.depth_m(codec, layout).tolist()))
    return (
        _TABLE.replace("@kind@", "int8" if integers.signed else "uint8")
        .replace("@index@", "[(uint8_t)integer]" if integers.signed else "[integer]")
        .replace("@scale@", _hexadecimal(integers.scale))
        .replace("@zero_point@", str(integers.zero_point))
        .replace("@values@", textwrap.indent(textwrap.fill(listed, 112), "    "))
    )


def _hexadecimal(value: float) -> str:
    """A float literal; hexadecimal, which every compiler reads exactly, with the decimal as a comment if not simple."""
    value = float32(value)
    if abs(value) < 1e6 and (2 * value).is_integer():
        return f"{value}f"
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f /* {np.float32(value)!s} */"


def _literal(value: float) -> str:
    """A hexadecimal float literal without its decimal."""
    return _hexadecimal(value).partition(" ")[0]


class _C99(Language):
    notation = Notation(
        lambda number: _hexadecimal(number.value), {"where": ("{} ? {} : {}", 0)}, lambda name: f"dd_{name}"
    )
    primitives = MappingProxyType(
        {
            "round": """\
/* To the nearest whole number, halves to the even one; |x| < 2^22. */
static inline float dd_round(float x) {
    return (x + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23, above which floats are whole numbers */
}

""",
            "abs": """\
static inline float dd_abs(float x) { return x < 0.0f ? -x : x; }

""",
            "element": """\
/* NaN is nowhere: the arithmetic around keeps it. */
static inline float dd_element(float place, const float *table) { return table[place == place ? (int)place : 0]; }

""",
            "whole_power_of_two": """\
/* 2^whole, assembled from bits; converting NaN to an integer would be undefined. */
static inline float dd_whole_power_of_two(float whole) {
    const uint32_t bits = (uint32_t)((whole == whole ? (int32_t)whole : 0) + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof(power));
    return power;
}

""",
        }
    )

    def assignment(self, variable: Variable, value: str, first: bool, last: bool) -> str:
        is_bool = isinstance(variable.parts[0], Operation) and variable.parts[0].name in ("<", "<=")
        kind = "const " * last + ("int " if is_bool else "float ") if first else ""
        note = f" /* {variable.note} */" if variable.note else ""
        line = re.sub(r"/\*.*?\*/", lambda each: each[0].replace(" ", "\0"), f"{kind}{variable.name} = {value};{note}")
        return "\n".join(textwrap.wrap(line, 112, subsequent_indent="    ")).replace("\0", " ")

    def array(self, array: Array) -> str:
        values = textwrap.indent(textwrap.fill(", ".join(map(_literal, array.values)), 112), "    ")
        return f"static const float dd_{array.name}[{len(array.values)}] = {{\n{values}\n}};\n\n"

    def definition(self, name: str, parameters: Sequence[str], note: str, lines: Sequence[str], result: str) -> str:
        comment = note.replace("``", "").replace("\n\n", "\n").replace("\n", "\n * ")
        body = textwrap.indent("\n".join([*lines, f"return {result};"]), "    ")
        of = ", ".join(f"float {each}" for each in parameters)
        return f"/* {comment} */\nstatic inline float dd_{name}({of}) {{\n{body}\n}}\n\n"


_C = _C99()

_LOGITS_NOTE = """
 * The network stops before its sigmoid: dd_decode applies it, dd_decode_pixel takes codes after it.
 *"""

_FILL = """\
/* Depth in metres of all 256 codes of an output with this scale and zero point, by their bytes. */
static inline void dd_fill_depth_m_of_@bits@(float scale, int32_t zero_point, float depth_m[256]) {
    for (int byte = 0; byte < 256; ++byte) {
        const float value = dd_dequantize_@bits@((@type@)byte, scale, zero_point);
        const float code = @code@;
        depth_m[byte] = dd_decode_pixel(&code);
    }
}

"""

_TABLE = """\
/* Depth in metres of each @kind@ that the output can be, without arithmetic: dd_depth_m_of_code@index@.
 * It holds for an output with this scale and zero point; for any other, fill a table with the function above. */
#define DD_CODE_SCALE @scale@
#define DD_CODE_ZERO_POINT @zero_point@
static const float dd_depth_m_of_code[256] = {
@values@
};

"""

_HEADER = """\
/* Decode the outputs of the network to metres. C99, no other files needed.
 *
 * Codec:   @codec@
 * Formula: @formula@
 *@note@@logits_note@
 * The arithmetic is float32 in a fixed order, so that every machine, and @script@, gives the same bits, if the
 * compiler does not change it: build with -ffp-contract=off (a fused multiply-add rounds once instead of twice) and
 * without -ffast-math.
 */
#ifndef @guard@
#define @guard@
#if defined(DD_OUTPUT_NAMES)
#error "decode.h and decode_float.h have the same names: include the one for the file that runs"
#endif

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "decode.h needs IEEE arithmetic: build without -ffast-math"
#endif
#if FLT_EVAL_METHOD != 0
#error "decode.h needs float arithmetic in float, not in a wider type: build with -msse2 -mfpmath=sse on 32-bit x86"
#endif
#if defined(__clang__) || !defined(__GNUC__)
#pragma STDC FP_CONTRACT OFF /* GCC ignores it, and needs the option */
#endif

#define DD_MIN_DEPTH_M @near@
#define DD_MAX_DEPTH_M @far@
#define DD_CODES @count@ /* per pixel */
#define DD_OUTPUTS @outputs@
#define DD_OUTPUT_NAMES {@names@}
#define DD_OUTPUT_CHANNELS {@channels@}
#define DD_LOGITS @logits@ /* 1: the outputs are logits */

/* NaN stays NaN. */
static inline float dd_clip(float x, float low, float high) {
    return x < low ? low : (x > high ? high : x);
}

@functions@/* Dequantize integers from a runtime, with the scale and zero point of that output. */
static inline float dd_dequantize_u8(uint8_t code, float scale, int32_t zero_point) {
    return (float)((int32_t)code - zero_point) * scale;
}

static inline float dd_dequantize_i8(int8_t code, float scale, int32_t zero_point) {
    return (float)((int32_t)code - zero_point) * scale;
}

/* Depth in metres of one pixel from its DD_CODES codes, which are clipped to [0, 1]. */
static inline float dd_decode_pixel(const float *unclipped) {
    float codes[DD_CODES];
    for (int k = 0; k < DD_CODES; ++k) {
        codes[k] = dd_clip(unclipped[k], 0.0f, 1.0f);
    }
@body@
    return dd_clip(depth_m, DD_MIN_DEPTH_M, DD_MAX_DEPTH_M);
}

/* Depth in metres of a map from one plane per code: the channels of the outputs, in the order of DD_OUTPUT_NAMES. */
static inline void dd_decode(const float *const *planes, size_t pixels, float *depth_m) {
    for (size_t i = 0; i < pixels; ++i) {
        float codes[DD_CODES];
        for (int k = 0; k < DD_CODES; ++k) {
            codes[k] = @to_code@;
        }
        depth_m[i] = dd_decode_pixel(codes);
    }
}

@of_integers@@table@#endif /* @guard@ */
"""
