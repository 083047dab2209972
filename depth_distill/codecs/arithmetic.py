"""Powers and logarithms from IEEE 754 basic operations only: the same bits in NumPy, in torch and in C.

``exp`` and ``log`` differ in the last bit between libraries. Here they consist of sums, products, quotients and
roundings of float32 in a fixed order, and of powers of two that are assembled from bits. ``xp`` is the array library,
``numpy`` or ``torch``; only functions with the same name in both are used. Two rules keep the bits equal on every
device: no division by a Python number (torch multiplies by its reciprocal on a GPU), and no fused multiply-add (compile
C with ``-ffp-contract=off``).

With a :class:`StandIn` as ``xp``, the same functions give the text of ``decode.py`` and ``decode.h``, a formula, or the
operators of an ONNX file, so that nothing is written twice.
"""

import functools
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Array = Any
"""A float32 array of ``xp``."""


class StandIn:
    """Takes the place of ``xp`` to write or export the arithmetic of a codec instead of computing it.

    Args:
        own: replacements of functions that are marked with :func:`operation`, by name.
    """

    def __init__(self, own: Mapping[str, Callable[..., Array]]) -> None:
        self.own = own

    def named(self, name: str, value: Array, note: str) -> Array:
        """Called for an intermediate value with a name; returns the value to use."""
        return value

    def number(self, value: float) -> Any:
        """Called for a number that a formula shows unevaluated; returns the value to use."""
        return value


def operation(function: Callable[..., Array]) -> Callable[..., Array]:
    """Mark a function of ``xp`` that a :class:`StandIn` may replace, for example by a call of that name.

    Its docstring and the names of its parameters are copied into the decoders that call it.
    """

    @functools.wraps(function)
    def run(xp: Any, *arguments: Any) -> Array:
        own = xp.own.get(function.__name__) if isinstance(xp, StandIn) else None
        return function(xp, *arguments) if own is None else own(*arguments)

    return run


def named(xp: Any, name: str, value: Array, note: str = "") -> Array:
    """The value; in written code, it is assigned to this name, with ``note`` as a comment."""
    return xp.named(name, value, note) if isinstance(xp, StandIn) else value


def number(xp: Any, value: float) -> Any:
    """The value; a formula keeps the terms of what is computed from such numbers: ``15 - 0.5``, not ``14.5``."""
    return xp.number(value) if isinstance(xp, StandIn) else value


class Constants(NamedTuple):
    """Numbers that written code holds in an array of this name.

    Attributes:
        name: name of the array.
        values: float32 numbers.
    """

    name: str
    values: tuple[float, ...]


_LN2 = math.log(2)
# Taylor series of 2^f: at |f| <= 1/2 the first missing term is 5e-9, a tenth of the last bit's half.
POWER_SERIES = tuple(_LN2**n / math.factorial(n) for n in range(8))
# atanh(s) = s + s^3/3 + ...; at |s| <= 0.1716 the first missing term is 2e-9.
_ATANH = tuple(1 / (2 * n + 1) for n in range(5))
_MANTISSA, _ONE, _BIAS = 0x7FFFFF, 0x3F800000, 127


def float32(value: float) -> float:
    """The value rounded to float32, as both libraries round it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


class SplitFactor(NamedTuple):
    """A factor of :func:`power_of_two`, split so that the product of the high parts of factor and value is exact.

    Attributes:
        grid: values are split at multiples of ``1 / grid``.
        high: first 11 bits of the factor.
        low: remainder of the factor, float32.
        whole: the factor, float32.
    """

    grid: float
    high: float
    low: float
    whole: float


def split_factor(factor: float, reach: int = 1) -> SplitFactor:
    """Split a factor for values of magnitude at most ``reach``, a power of two."""
    step = 2.0 ** (math.frexp(factor)[1] - 11)
    high = round(factor / step) * step
    return SplitFactor(float(4096 // reach), high, float32(factor - high), float32(factor))


def power_of_two(xp: Any, values: Array, factor: float, reach: int = 1) -> Array:
    """``2 ** (values * factor)``, to 2 units in the last place.

    The product is exact; rounded to float32, it would change the power by up to ``factor`` units. Values are split into
    12 bits and a remainder, the factor into 11 bits and a remainder.

    Args:
        xp: ``numpy`` or ``torch``.
        values: exponents before scaling, of magnitude at most ``reach``.
        factor: factor of magnitude less than 64.
        reach: bound on the values, a power of two.
    """
    return split_power_of_two(xp, values, *split_factor(factor, reach))


@operation
def power(xp: Any, base: Any, values: Array) -> Array:
    """``base ** values`` for a positive base and values of magnitude at most 1."""
    return power_of_two(xp, values, math.log2(base))


@operation
def split_power_of_two(xp: Any, values: Array, grid: float, high: float, low: float, factor: float) -> Array:
    """``2 ** (values * factor)`` from sums, products and roundings, because libraries differ in the last bit.

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
    """``2 ** whole`` for whole numbers, assembled from bits. NaN, which has no defined integer, gives 1."""
    exponent = xp.asarray(xp.where(whole == whole, whole, xp.zeros_like(whole)), dtype=xp.int32)
    return ((exponent + _BIAS) << 23).view(xp.float32)


def log2_ratio(xp: Any, numerator: Array, denominator: Array) -> Array:
    """``log2(numerator / denominator)``, to 4 units in the last place even for ratios near 1.

    For ``m 2^e / (n 2^g)``, with ``m / n`` scaled to within sqrt(2) of 1, where ``m - n`` is exact (Sterbenz), this is
    ``e - g + 2 atanh((m - n) / (m + n)) / ln 2``.

    Args:
        xp: ``numpy`` or ``torch``.
        numerator: positive normal numbers.
        denominator: positive normal numbers of the same shape.
    """
    exponent, m = _split(xp, numerator)
    other, n = _split(xp, denominator)
    exponent = exponent - other
    above = xp.where(m > n * float32(math.sqrt(2)), xp.ones_like(m), xp.zeros_like(m))
    below = xp.where(m < n * float32(math.sqrt(0.5)), xp.ones_like(m), xp.zeros_like(m))
    m = (m - above * m * 0.5) + below * m  # halved, doubled or unchanged: exact
    exponent = exponent + above - below
    s = (m - n) / (m + n)
    square = s * s
    series = square * 0.0 + float32(_ATANH[-1])
    for coefficient in reversed(_ATANH[1:-1]):
        series = series * square + float32(coefficient)
    return exponent + (s + s * (square * series)) * float32(2 / _LN2)


@operation
def sigmoid(xp: Any, values: Array) -> Array:
    """``1 / (1 + exp(-values))`` for values of magnitude at most 16."""
    return _reciprocal_of_one_more(xp, power_of_two(xp, values, -1 / _LN2, reach=16))


@operation
def saturating_sigmoid(xp: Any, logits: Array) -> Array:
    """``1 / (1 + exp(-logits))`` for any number, to 3 units in the last place.

    From 16.64 on it is 1; below -32 it stays at 1.3e-14, which decodes to the same depth as 0. NaN stays NaN.
    """
    return _reciprocal_of_one_more(xp, power_of_two(xp, xp.clip(logits, -32.0, 32.0), -1 / _LN2, reach=32))


@operation
def interpolated(xp: Any, values: Array, table: Constants) -> Array:
    """The function through the points of ``table``, evenly spaced over [0, 1], linear between; NaN stays."""
    steps = len(table.values) - 1
    place = named(xp, "place", values * float(steps))
    below = named(xp, "below", xp.clip(xp.round(place - 0.5), 0.0, float(steps - 1)))
    low = named(xp, "low", element(xp, below, table))
    return low + (place - below) * (element(xp, below + 1.0, table) - low)


@operation
def element(xp: Any, places: Array, table: Constants) -> Array:
    """The elements of a table at whole places, which are floats; at NaN the first."""
    places = xp.where(places == places, places, xp.zeros_like(places))
    return as_array(xp, table, places)[xp.asarray(places, dtype=xp.int32)]


def as_array(xp: Any, table: Constants, like: Array) -> Array:
    """The numbers of a table as an array, on the device of another."""
    more = {"device": like.device} if hasattr(like, "requires_grad") else {}  # NumPy 1 has no devices
    return xp.asarray(table.values, dtype=xp.float32, **more)


def _reciprocal_of_one_more(xp: Any, power: Array) -> Array:
    power = named(xp, "power", power)
    return xp.full_like(power, 1.0) / (power + 1.0)


def logit(xp: Any, values: Array) -> Array:
    """``ln(u / (1 - u))`` for values ``u`` strictly between 0 and 1."""
    return log2_ratio(xp, values, 1.0 - values) * float32(_LN2)


def _split(xp: Any, values: Array) -> tuple[Array, Array]:
    """Exponent (as float32) and mantissa in [1, 2)."""
    bits = values.view(xp.int32)
    return xp.asarray((bits >> 23) - _BIAS, dtype=xp.float32), ((bits & _MANTISSA) | _ONE).view(xp.float32)
