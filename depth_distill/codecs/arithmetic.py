"""Powers and logarithms from IEEE 754 basic operations only: the same bits in NumPy, in torch and in C.

``exp`` and ``log`` differ in the last bit between libraries. Here they are sums, products, quotients and roundings of
float32 in a fixed order, and powers of two put together from bits. ``xp`` is the array library, ``numpy`` or ``torch``;
only what both call by one name is used. Two rules keep the bits equal on every device: no quotient by a Python number
(torch multiplies by its reciprocal on a GPU), and no fused multiply-add (compile C with ``-ffp-contract=off``).
"""

import math
import struct
from typing import Any, NamedTuple

Array = Any
"""float32, of ``xp``."""

_LN2 = math.log(2)
# Taylor series of 2^f: at |f| <= 1/2 the first missing term is 5e-9, a tenth of the last bit's half.
POWER_SERIES = tuple(_LN2**n / math.factorial(n) for n in range(8))
# atanh(s) = s + s^3/3 + ...; at |s| <= 0.1716 the first missing term is 2e-9.
_ATANH = tuple(1 / (2 * n + 1) for n in range(5))
_MANTISSA, _ONE, _BIAS = 0x7FFFFF, 0x3F800000, 127


def float32(value: float) -> float:
    """The nearest float32, as the number that both libraries make of it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


class SplitFactor(NamedTuple):
    """A factor of :func:`power_of_two` in parts whose products with parts of the values are exact.

    Attributes:
        grid: values are split at the multiples of ``1 / grid``.
        high: the first 11 bits of the factor.
        low: the rest of it, float32.
        whole: all of it, float32.
    """

    grid: float
    high: float
    low: float
    whole: float


def split_factor(factor: float, reach: int = 1) -> SplitFactor:
    """The parts of a factor for values of at most ``reach``, a power of two, in magnitude."""
    step = 2.0 ** (math.frexp(factor)[1] - 11)
    high = round(factor / step) * step
    return SplitFactor(float(4096 // reach), high, float32(factor - high), float32(factor))


def power_of_two(xp: Any, values: Array, factor: float, reach: int = 1) -> Array:
    """``2 ** (values * factor)``, to 2 units in the last place.

    The product is exact: rounded to float32 it would move the power by up to ``factor`` units. Values are split into
    12 bits and a rest, the factor into 11 bits and a rest.

    Args:
        xp: ``numpy`` or ``torch``.
        values: at most ``reach`` in magnitude.
        factor: less than 64 in magnitude.
        reach: a power of two.
    """
    parts = split_factor(factor, reach)
    high = xp.round(values * parts.grid) * (1 / parts.grid)
    low = values - high
    product_high = high * parts.high
    product_low = high * parts.low + low * parts.whole
    whole = xp.round(product_high)
    rest = (product_high - whole) + product_low
    power = rest * 0.0 + float32(POWER_SERIES[-1])
    for coefficient in reversed(POWER_SERIES[:-1]):
        power = power * rest + float32(coefficient)
    # An integer made of NaN is undefined; the NaN itself is in ``power``.
    exponent = xp.asarray(xp.where(whole == whole, whole, xp.zeros_like(whole)), dtype=xp.int32)
    return power * ((exponent + _BIAS) << 23).view(xp.float32)


def log2_ratio(xp: Any, numerator: Array, denominator: Array) -> Array:
    """``log2(numerator / denominator)``, to 4 units in the last place also where the ratio is almost 1.

    ``m 2^e / (n 2^g)`` with ``m / n`` brought to within sqrt(2) of 1, where ``m - n`` is exact (Sterbenz), is
    ``e - g + 2 atanh((m - n) / (m + n)) / ln 2``.

    Args:
        xp: ``numpy`` or ``torch``.
        numerator: positive, normal.
        denominator: positive, normal, of the same shape.
    """
    exponent, m = _split(xp, numerator)
    other, n = _split(xp, denominator)
    exponent = exponent - other
    above = xp.where(m > n * float32(math.sqrt(2)), xp.ones_like(m), xp.zeros_like(m))
    below = xp.where(m < n * float32(math.sqrt(0.5)), xp.ones_like(m), xp.zeros_like(m))
    m = (m - above * m * 0.5) + below * m  # halved, doubled or left: exact
    exponent = exponent + above - below
    s = (m - n) / (m + n)
    square = s * s
    series = square * 0.0 + float32(_ATANH[-1])
    for coefficient in reversed(_ATANH[1:-1]):
        series = series * square + float32(coefficient)
    return exponent + (s + s * (square * series)) * float32(2 / _LN2)


def sigmoid(xp: Any, values: Array) -> Array:
    """``1 / (1 + exp(-x))`` of at most 16 in magnitude."""
    power = power_of_two(xp, values, -1 / _LN2, reach=16)
    return xp.ones_like(power) / (power + 1.0)


def saturating_sigmoid(xp: Any, logits: Array) -> Array:
    """``1 / (1 + exp(-x))`` of any number, to 3 units in the last place: what a host does to logits.

    From 16.64 up it is 1, and below -32 it stays at 1.3e-14, which no depth can tell from 0. NaN stays NaN.
    """
    power = power_of_two(xp, xp.clip(logits, -32.0, 32.0), -1 / _LN2, reach=32)
    return xp.ones_like(power) / (power + 1.0)


def logit(xp: Any, values: Array) -> Array:
    """``ln(u / (1 - u))`` of values strictly inside (0, 1)."""
    return log2_ratio(xp, values, 1.0 - values) * float32(_LN2)


def _split(xp: Any, values: Array) -> tuple[Array, Array]:
    """Exponent (as float32) and mantissa in [1, 2)."""
    bits = values.view(xp.int32)
    return xp.asarray((bits >> 23) - _BIAS, dtype=xp.float32), ((bits & _MANTISSA) | _ONE).view(xp.float32)
