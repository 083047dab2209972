"""Two codes, a whole part and a fraction: their base class, and whole metres with the fraction of a metre."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs.arithmetic import Array, named
from depth_distill.codecs.base import HostCodec, rounded_codes
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.errors import ConfigError

Decoder = Literal["sum", "round", "unwrap"]
Integer = Literal["floor", "coarse"]
Fraction = Literal["sawtooth", "triangle"]

_SAME_M = 1e-3  # depths closer than this have the same whole part


class TwoPartCodec(HostCodec):
    """A codec whose whole part can be wrong while the fraction is right: a *carry error*."""

    channels = 2
    code_names = ("integer", "fractional")

    def carry_errors(self, codes: NDArray[Any], reference_m: NDArray[Any]) -> NDArray[np.bool_]:
        """Pixels whose whole part is not the one with which depth is nearest to a reference.

        Args:
            codes: codes ``(..., 2, H, W)``.
            reference_m: reference depth in metres ``(..., 1, H, W)``, such as that of the float network.

        Returns:
            Bool mask ``(..., 1, H, W)``; its mean is the carry rate.
        """
        values = (np.asarray(each, np.float32) for each in (codes, reference_m))
        return np.asarray(self.carry_errors_with(np, *values))

    @abstractmethod
    def carry_errors_with(self, xp: Any, codes: Array, reference_m: Array) -> Array:
        """:meth:`carry_errors` for float32 arrays of ``xp``."""


class HostIntegerFractional(TwoPartCodec):
    """Whole metres divided by ``n``, the farthest depth rounded up to whole metres, and the fraction of a metre.

    Target codes for depth ``d``:

    * ``integer="floor"``: ``floor(d) / n``, which jumps at every whole metre; ``"coarse"``: ``d / n``, which does not.
    * ``fraction="sawtooth"``: ``d - floor(d)``, which jumps from 1 to 0; ``"triangle"``: the same in even metres
      and 1 minus it in odd ones, which does not jump; a wrong carry then mirrors depth at the whole metre.

    Decoders, with ``i = n * integer`` and the fraction ``f``:

    * ``sum``: ``i + f``. A trained integer code is never exactly on a whole metre, so its rounding error is in the
      result: a step of 58.8 mm at 15 m and 8 bits, not the 3.9 mm of the fraction.
    * ``round``: ``round(i) + f``; wrong by 1 m if ``i`` is half a metre off.
    * ``unwrap``: ``round(i - f) + f``, the depth with this fraction that is nearest to the coarse depth, as in phase
      unwrapping; correct if ``i`` and ``f`` agree to half a metre. For ``integer="floor"``, ``i + 1/2`` takes the
      place of ``i``.

    With a triangle, ``round`` uses ``1 - f`` in odd metres, and ``unwrap`` the nearest depth with this fraction.

    Args:
        depth_range: nearest and farthest depth.
        decoder: ``sum``, ``round`` or ``unwrap``.
        integer: ``floor`` or ``coarse``; ``coarse`` needs ``unwrap``.
        fraction: ``sawtooth`` or ``triangle``; ``triangle`` needs ``round`` or ``unwrap``.

    Raises:
        ConfigError: an argument is unknown, or two of them cannot be combined.
    """

    def __init__(
        self,
        depth_range: DepthRange,
        decoder: Decoder = "unwrap",
        integer: Integer = "coarse",
        fraction: Fraction = "sawtooth",
    ) -> None:
        for key, value, known in (
            ("decoder", decoder, get_args(Decoder)),
            ("integer", integer, get_args(Integer)),
            ("fraction", fraction, get_args(Fraction)),
        ):
            if value not in known:
                raise ConfigError(f"{key} must be one of {', '.join(known)}, got {value!r}")
        if integer == "coarse" and decoder != "unwrap":
            raise ConfigError(
                f"decoder: {decoder} reads whole metres, but integer: coarse is trained to depth itself; "
                "use decoder: unwrap, or integer: floor"
            )
        if fraction == "triangle" and decoder == "sum":
            raise ConfigError("decoder: sum cannot read fraction: triangle, which falls in odd metres; use unwrap")
        self.depth_range = depth_range
        self.decoder = decoder
        self.integer = integer
        self.fraction = fraction
        self.metres = math.ceil(depth_range.max_m)

    def __str__(self) -> str:
        return f"integer/fraction ({self.integer}, {self.fraction}), {self.decoder}"

    @property
    def decoders(self) -> tuple["HostIntegerFractional", ...]:
        """This codec with every decoder that can read its codes."""
        if self.integer == "coarse":
            names: tuple[Decoder, ...] = ("unwrap",)
        else:
            names = ("sum", "round", "unwrap") if self.fraction == "sawtooth" else ("round", "unwrap")
        return tuple(HostIntegerFractional(self.depth_range, each, self.integer, self.fraction) for each in names)

    def grid_m(self, bits: int = 8) -> NDArray[np.float32]:
        """Depths at the steps of the fraction in every metre, ascending."""
        grid_m = rounded_codes(self.metres, bits)
        return grid_m[(grid_m >= self.near_m) & (grid_m <= self.far_m)]

    def step_mm(self, depth_m: NDArray[Any], bits: int = 8) -> NDArray[np.float64]:
        """Step of the fraction; for ``sum`` that of the integer, which is ``n`` times as large."""
        metres = self.metres if self.decoder == "sum" else 1
        return np.full(np.shape(depth_m), 1000 * metres / (2**bits - 1))

    def worst_error_mm(self, depth_m: NDArray[Any], bits: int = 8) -> NDArray[np.float64]:
        """Half a step of the fraction; for ``sum`` plus half a step of the integer."""
        metres = self.metres + 1 if self.decoder == "sum" else 1
        return np.full(np.shape(depth_m), 500 * metres / (2**bits - 1))

    def encode_with(self, xp: Any, depth_m: Array) -> Array:
        """Integer and fraction of depth."""
        depth_m = self.clamped(xp, depth_m)
        whole = xp.floor(depth_m)
        fraction = depth_m - whole
        if self.fraction == "triangle":
            fraction = xp.where(even(xp, whole), fraction, 1.0 - fraction)
        integer = whole if self.integer == "floor" else depth_m
        return xp.concatenate([integer / xp.full_like(integer, float(self.metres)), fraction], -3)

    def depth_of(self, xp: Any, codes: Sequence[Array]) -> Array:
        """Depth from integer and fraction, by the decoder."""
        return self._decode(xp, *codes)[0]

    def slopes_with(self, xp: Any, codes: Array) -> Array:
        """``n`` for the integer and 1 for the fraction (-1 on a falling triangle), for every decoder.

        For the fraction, this is the true derivative of all three. For the integer, it is that of ``sum``, and a
        straight-through estimate for the rounding of the others. A straight-through estimate of the whole of
        ``round(i - f) + f`` would leave the fraction without gradient.
        """
        clipped = xp.clip(codes, 0.0, 1.0)
        _, rises = self._decode(xp, clipped[..., :1, :, :], clipped[..., 1:, :, :])
        rising = xp.ones_like(clipped[..., 1:, :, :])
        slope = rising if rises is None else xp.where(rises, rising, -rising)
        return xp.concatenate([rising * float(self.metres), slope], -3)

    def carry_errors_with(self, xp: Any, codes: Array, reference_m: Array) -> Array:
        """See the base class. ``sum`` has no choice of a whole part: there, an error of half a metre or more."""
        depth_m = self.decode_with(xp, codes)
        if self.decoder == "sum":
            return abs(depth_m - reference_m) >= 0.5
        nearest_m, _ = self._nearest(xp, reference_m, xp.clip(codes[..., 1:, :, :], 0.0, 1.0))
        return abs(depth_m - xp.clip(nearest_m, self.near_m, self.far_m)) > _SAME_M

    def _decode(self, xp: Any, integer: Array, fraction: Array) -> tuple[Array, Array | None]:
        """Depth, and where it increases with the fraction; None if everywhere."""
        coarse_m = float(self.metres) * integer
        if self.decoder == "sum":
            return coarse_m + fraction, None
        if self.decoder == "unwrap":
            return self._nearest(xp, coarse_m + 0.5 if self.integer == "floor" else coarse_m, fraction)
        if self.fraction == "sawtooth":
            return xp.round(coarse_m) + fraction, None
        whole = named(xp, "whole", xp.round(coarse_m), "metres")
        is_even = named(xp, "even", even(xp, whole), "in odd metres the fraction falls with depth")
        return whole + xp.where(is_even, fraction, 1.0 - fraction), is_even

    def _nearest(self, xp: Any, coarse_m: Array, fraction: Array) -> tuple[Array, Array | None]:
        """The depth with this fraction nearest to the coarse one, and where it increases with the fraction."""
        if self.fraction == "sawtooth":
            return xp.round(coarse_m - fraction) + fraction, None
        coarse_m = named(xp, "coarse_m", coarse_m)
        rising = named(xp, "rising", 2.0 * xp.round(0.5 * (coarse_m - fraction)) + fraction, "metres, if even")
        falling = named(xp, "falling", 2.0 * xp.round(0.5 * (coarse_m + fraction)) - fraction, "metres, if odd")
        rises = named(xp, "rises", abs(rising - coarse_m) <= abs(falling - coarse_m))
        return xp.where(rises, rising, falling), rises


def even(xp: Any, whole: Array) -> Array:
    """Where whole numbers are even."""
    half = 0.5 * whole
    return abs(xp.round(half) - half) < 0.5
