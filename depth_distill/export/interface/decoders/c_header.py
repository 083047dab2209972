"""``decode.h``: the codec of one network in C99."""

import math

import numpy as np

from depth_distill.codecs import HostCodec, HostIntegerFractional, HostSingle, HostThermometer, formula
from depth_distill.codecs.arithmetic import POWER_SERIES, SplitFactor, float32, split_factor
from depth_distill.export.interface.decoders.numpy_script import needed_functions
from depth_distill.quantization.interface import OutputLayout


def c_header(codec: HostCodec, layout: OutputLayout) -> str:
    """The text of ``decode.h``.

    Args:
        codec: of the network.
        layout: what leaves the network.

    Raises:
        ConfigError: a codec of a class that is not one of the package's.
    """
    body = "\n".join(f"    {line}" for line in _body(codec))
    to_code = "dd_saturating_sigmoid(planes[k][i])" if layout.logits else "planes[k][i]"
    values = {
        "codec": str(codec),
        "formula": formula(codec).replace("; ", "\n *          "),
        "near": _number(codec.near_m),
        "far": _number(codec.far_m),
        "count": str(codec.channels),
        "outputs": str(len(layout.names)),
        "names": ", ".join(f'"{name}"' for name in layout.names),
        "channels": ", ".join(map(str, layout.channels)),
        "logits": str(int(layout.logits)),
        "logits_note": _LOGITS_NOTE if layout.logits else "",
        "functions": needed_functions(_FUNCTIONS, f"{body}\n{to_code}"),
        "body": body,
        "to_code": to_code,
    }
    text = _HEADER
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _body(codec: HostCodec) -> list[str]:
    """The lines of ``dd_decode_pixel``, from ``codes`` to ``depth_m``."""
    if isinstance(codec, HostThermometer):
        lines = [
            "static const float widths[DD_CODES] = {",
            *(f"    {_number(width)}," for width in codec.widths),
            "};",
            f"float code = dd_clip(codes[0], 0.0f, 1.0f) * widths[0] + {_number(codec.knots[0])};",
            "for (int k = 1; k < DD_CODES; ++k) { /* in this order: sums of floats depend on it */",
            "    code = code + dd_clip(codes[k], 0.0f, 1.0f) * widths[k];",
            "}",
        ]
        lines += ["code = dd_sigmoid(code);"] * (codec.spacing == "logit")
        return [*lines, "code = dd_clip(code, 0.0f, 1.0f);", *_single(codec.single)]
    if isinstance(codec, HostIntegerFractional):
        return [
            f"const float integer = dd_clip(codes[0], 0.0f, 1.0f) * {_number(codec.metres)};",
            "const float fraction = dd_clip(codes[1], 0.0f, 1.0f);",
            *_integer_fractional(codec),
        ]
    assert isinstance(codec, HostSingle)
    return ["const float code = dd_clip(codes[0], 0.0f, 1.0f);", *_single(codec)]


def _single(codec: HostSingle) -> list[str]:
    near, span = "DD_MIN_DEPTH_M", _number(codec.span_m)
    if codec.encoding == "linear":
        return [f"const float depth_m = code * {span} + {near};"]
    if codec.encoding == "inverse":
        product = _number(float32(codec.near_m * codec.far_m))
        return [f"const float depth_m = {product} / ((1.0f - code) * {span} + {near});"]
    return [
        f"const dd_factor octaves = {_factor(split_factor(codec.octaves))};",
        f"const float depth_m = dd_power_of_two(code, octaves) * {near};",
    ]


def _integer_fractional(codec: HostIntegerFractional) -> list[str]:
    if codec.decoder == "sum":
        return ["const float depth_m = integer + fraction;"]
    if codec.decoder == "round":
        if codec.fraction == "sawtooth":
            return ["const float depth_m = dd_round(integer) + fraction;"]
        return [
            "const float whole = dd_round(integer);",
            "/* The fraction falls with depth in odd metres; an integer made of NaN is undefined. */",
            "const int odd = whole == whole && ((int32_t)whole & 1);",
            "const float depth_m = whole + (odd ? 1.0f - fraction : fraction);",
        ]
    lines = [f"const float coarse_m = integer{' + 0.5f' if codec.integer == 'floor' else ''};"]
    if codec.fraction == "sawtooth":
        return [*lines, "const float depth_m = dd_round(coarse_m - fraction) + fraction;"]
    return [
        *lines,
        "const float rising = dd_round((coarse_m - fraction) * 0.5f) * 2.0f + fraction;",
        "const float falling = dd_round((coarse_m + fraction) * 0.5f) * 2.0f - fraction;",
        "const int rises = dd_magnitude(rising - coarse_m) <= dd_magnitude(falling - coarse_m);",
        "const float depth_m = rises ? rising : falling;",
    ]


def _number(value: float) -> str:
    """Hexadecimal, which every compiler reads exactly, with the decimal beside it where it says more."""
    value = float32(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value)}.0f"
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f /* {np.float32(value)} */"


def _factor(factor: SplitFactor) -> str:
    return f"{{{', '.join(map(_number, factor))}}}"


_ROUND = """\
/* To the nearest whole number, halves to the even one; |x| < 2^22. */
static inline float dd_round(float x) {
    return (x + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23, above which floats are whole numbers */
}

"""

_MAGNITUDE = """\
static inline float dd_magnitude(float x) { return x < 0.0f ? -x : x; }

"""

_POWER_OF_TWO = """\
/* A factor: high + low; values are split at multiples of 1 / grid, so that the first product is exact. */
typedef struct {
    float grid, high, low, whole;
} dd_factor;

/* 2^(value * factor) by sums, products and roundings alone: exp2f differs between libraries. */
static inline float dd_power_of_two(float value, dd_factor factor) {
    static const float series[] = {
@series@
    };
    const float high = dd_round(value * factor.grid) * (1.0f / factor.grid);
    const float product_high = high * factor.high;
    const float product_low = high * factor.low + (value - high) * factor.whole;
    const float whole = dd_round(product_high);
    const float rest = (product_high - whole) + product_low;
    float power = series[0];
    for (size_t k = 1; k < sizeof(series) / sizeof(series[0]); ++k) {
        power = power * rest + series[k]; /* 2^rest */
    }
    /* An integer made of NaN is undefined; the NaN itself is in power. */
    const uint32_t bits = (uint32_t)((whole == whole ? (int32_t)whole : 0) + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return power * scale;
}

""".replace("@series@", "\n".join(f"        {_number(each)}," for each in reversed(POWER_SERIES)))

_SIGMOID = f"""\
/* 1 / (1 + exp(-x)), |x| <= 16. */
static inline float dd_sigmoid(float x) {{
    const dd_factor factor = {_factor(split_factor(-1 / math.log(2), 16))};
    return 1.0f / (dd_power_of_two(x, factor) + 1.0f);
}}

"""

_SATURATING_SIGMOID = f"""\
/* A code of a logit: 1 / (1 + exp(-x)); below -32 it stays at 1.3e-14, which no depth can tell from 0. */
static inline float dd_saturating_sigmoid(float x) {{
    const dd_factor factor = {_factor(split_factor(-1 / math.log(2), 32))};
    return 1.0f / (dd_power_of_two(dd_clip(x, -32.0f, 32.0f), factor) + 1.0f);
}}

"""

_FUNCTIONS = {
    "dd_round": _ROUND,
    "dd_magnitude": _MAGNITUDE,
    "dd_power_of_two": _POWER_OF_TWO,
    "dd_sigmoid": _SIGMOID,
    "dd_saturating_sigmoid": _SATURATING_SIGMOID,
}

_LOGITS_NOTE = """
 * The network stops before its sigmoid: dd_decode applies it, dd_decode_pixel takes codes after it.
 *"""

_HEADER = """\
/* Turn what leaves the network into metres. C99, nothing but this file.
 *
 * Codec:   @codec@
 * Formula: @formula@
 *@logits_note@
 * The arithmetic is float32 in a fixed order, so that every machine, and decode.py beside this file, gives the same
 * bits, if the compiler leaves it as it is: build with -ffp-contract=off (a fused multiply-add rounds once where this
 * rounds twice) and without -ffast-math.
 */
#ifndef DD_DECODE_H
#define DD_DECODE_H

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
#pragma STDC FP_CONTRACT OFF /* GCC does not know it, and needs the option */
#endif

#define DD_MIN_DEPTH_M @near@
#define DD_MAX_DEPTH_M @far@
#define DD_CODES @count@ /* a pixel */
#define DD_OUTPUTS @outputs@
#define DD_OUTPUT_NAMES {@names@}
#define DD_OUTPUT_CHANNELS {@channels@}
#define DD_LOGITS @logits@ /* 1: the outputs are logits */

/* NaN stays NaN. */
static inline float dd_clip(float x, float low, float high) {
    return x < low ? low : (x > high ? high : x);
}

@functions@/* Floats of the integers of a runtime, with the scale and zero point of that output. */
static inline float dd_dequantize_u8(uint8_t code, float scale, int32_t zero_point) {
    return (float)((int32_t)code - zero_point) * scale;
}

static inline float dd_dequantize_i8(int8_t code, float scale, int32_t zero_point) {
    return (float)((int32_t)code - zero_point) * scale;
}

/* Metres of one pixel of DD_CODES codes; beyond [0, 1] they are clipped. */
static inline float dd_decode_pixel(const float *codes) {
@body@
    return dd_clip(depth_m, DD_MIN_DEPTH_M, DD_MAX_DEPTH_M);
}

/* Metres of a map: one plane a code, that is, a channel of an output, in the order of DD_OUTPUT_NAMES. */
static inline void dd_decode(const float *const *planes, size_t pixels, float *depth_m) {
    for (size_t i = 0; i < pixels; ++i) {
        float codes[DD_CODES];
        for (int k = 0; k < DD_CODES; ++k) {
            codes[k] = @to_code@;
        }
        depth_m[i] = dd_decode_pixel(codes);
    }
}

#endif /* DD_DECODE_H */
"""
