"""Powers and logarithms from IEEE 754 basic operations only: the same bits in NumPy, in torch and in C.

``exp`` and ``log`` differ in the last bit between libraries. Here they are sums, products, quotients and roundings of
float32 in a fixed order, and powers of two put together from bits. ``xp`` is the array library, ``numpy`` or ``torch``;
only what both call by one name is used. Two rules keep the bits equal on every device: no quotient by a Python number
(torch multiplies by its reciprocal on a GPU), and no fused multiply-add (compile C with ``-ffp-contract=off``).

A :class:`StandIn` in the place of ``xp`` makes something else of the same functions: the text of ``decode.py`` and
``decode.h``, a formula, or the operators of ONNX. So nothing is written twice.
"""

import functools
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Array = Any
"""float32, of ``xp``."""


class StandIn:
    """Takes the place of ``xp`` where decoding is written out or exported instead of computed.

    Args:
        own: what it does in place of an :func:`operation`, by the name of that.
    """

    def __init__(self, own: Mapping[str, Callable[..., Array]]) -> None:
        self.own = own

    def named(self, name: str, value: Array, note: str) -> Array:
        """What becomes of an intermediate value that has a name."""
        return value

    def number(self, value: float) -> Any:
        """What becomes of a number that a formula shows as it was given."""
        return value


def operation(function: Callable[..., Array]) -> Callable[..., Array]:
    """Mark a function of ``xp`` that a :class:`StandIn` may do in its own way, such as call it instead of tracing it.

    Its docstring and the names of its parameters are copied into the decoders that call it.
    """

    @functools.wraps(function)
    def run(xp: Any, *arguments: Any) -> Array:
        own = xp.own.get(function.__name__) if isinstance(xp, StandIn) else None
        return function(xp, *arguments) if own is None else own(*arguments)

    return run


def named(xp: Any, name: str, value: Array, note: str = "") -> Array:
    """The value; where it is written out, an assignment to this name, with a comment."""
    return xp.named(name, value, note) if isinstance(xp, StandIn) else value


def number(xp: Any, value: float) -> Any:
    """The value; in a formula what is computed from such numbers keeps them: ``15 - 0.5``, not ``14.5``."""
    return xp.number(value) if isinstance(xp, StandIn) else value


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
    return split_power_of_two(xp, values, *split_factor(factor, reach))


@operation
def power(xp: Any, base: Any, values: Array) -> Array:
    """``base ** values`` of a positive number and values of at most 1 in magnitude."""
    return power_of_two(xp, values, math.log2(base))


@operation
def split_power_of_two(xp: Any, values: Array, grid: float, high: float, low: float, factor: float) -> Array:
    """``2 ** (values * factor)`` by sums, products and roundings alone: libraries differ in the last bit of theirs.

    ``high + low`` is the factor, and values are split at multiples of ``1 / grid``, so that ``product_high`` is exact.
    """
    values_high = named(xp, "values_high", xp.round(values * grid) * (1 / grid))
    product_high = named(xp, "product_high", values_high * high)
    product_low = named(xp, "product_low", values_high * low + (values - values_high) * factor)
    whole = named(xp, "whole", xp.round(product_high))
    rest = named(xp, "rest", (product_high - whole) + product_low)
    result: Array = float32(POWER_SERIES[-1])
    for coefficient in reversed(POWER_SERIES[:-1]):  # 2 ** rest
        result = named(xp, "result", result * rest + float32(coefficient))
    return result * whole_power_of_two(xp, whole)


@operation
def whole_power_of_two(xp: Any, whole: Array) -> Array:
    """``2 ** whole`` of whole numbers, put together from bits. NaN gives 1: an integer made of it is undefined."""
    exponent = xp.asarray(xp.where(whole == whole, whole, xp.zeros_like(whole)), dtype=xp.int32)
    return ((exponent + _BIAS) << 23).view(xp.float32)


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


@operation
def sigmoid(xp: Any, values: Array) -> Array:
    """``1 / (1 + exp(-values))`` of at most 16 in magnitude."""
    return _reciprocal_of_one_more(xp, power_of_two(xp, values, -1 / _LN2, reach=16))


@operation
def saturating_sigmoid(xp: Any, logits: Array) -> Array:
    """``1 / (1 + exp(-logits))`` of any number, to 3 units in the last place: what a host does to logits.

    From 16.64 up it is 1, and below -32 it stays at 1.3e-14, which no depth can tell from 0. NaN stays NaN.
    """
    return _reciprocal_of_one_more(xp, power_of_two(xp, xp.clip(logits, -32.0, 32.0), -1 / _LN2, reach=32))


def _reciprocal_of_one_more(xp: Any, power: Array) -> Array:
    power = named(xp, "power", power)
    return xp.full_like(power, 1.0) / (power + 1.0)


def logit(xp: Any, values: Array) -> Array:
    """``ln(u / (1 - u))`` of values strictly inside (0, 1)."""
    return log2_ratio(xp, values, 1.0 - values) * float32(_LN2)


def _split(xp: Any, values: Array) -> tuple[Array, Array]:
    """Exponent (as float32) and mantissa in [1, 2)."""
    bits = values.view(xp.int32)
    return xp.asarray((bits >> 23) - _BIAS, dtype=xp.float32), ((bits & _MANTISSA) | _ONE).view(xp.float32)
