"""A pair of codes: the number of clips that are full, and how far the next one is, as a triangle wave."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs.arithmetic import Array, Constants, element, float32, interpolated, logit, named, sigmoid
from depth_distill.codecs.base import rounded_codes
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.codecs.single import Encoding, HostSingle
from depth_distill.codecs.thermometer import SATURATION, logit_knots
from depth_distill.codecs.two_part import TwoPartCodec, even
from depth_distill.errors import ConfigError

PairSpacing = Literal["uniform", "logit", "metres"]

DEFAULT_CLIPS, MOST_CLIPS = 16, 32
_CARRY = 0.25  # of a clip: by so much another integer has to be nearer, so that drift of the network is no carry


class HostPair(TwoPartCodec):
    """The position ``p`` in a thermometer of ``K`` clips, as a whole number of clips and a fraction of the next.

    ``integer = j / (K - 1)`` with ``j = floor(p)``, and ``fractional = p - j`` where ``j`` is even, ``1 - (p - j)``
    where it is odd: a triangle wave, which does not jump. So ``p = j + fractional`` or ``j + 1 - fractional`` with
    ``j = round((K - 1) integer)``, right as long as ``integer`` is off by less than half of its step, 1 / (2 K - 2),
    which is 8 steps of 8 bits for 16 clips. At a whole number of clips both readings agree.

    What ``p`` means:

    * ``uniform`` (for a head that clips): ``u = p / K`` with the code ``u`` of a single codec;
    * ``logit`` (for a head with a sigmoid): ``u = sigmoid(x)``, where ``x`` runs through the knots of
      :class:`~depth_distill.codecs.HostThermometer`, linear between;
    * ``metres`` (for a head that clips linear depth): ``depth_m = floor(nearest) + p``, so that ``j`` is whole metres.

    Args:
        depth_range: nearest and farthest depth.
        encoding: encoding of the single codec; ``linear`` for ``metres``.
        num_clips: number of clips, 2 to 32, even for ``logit``; for ``metres`` their number follows from the range,
            whatever is given otherwise 16.
        spacing: ``uniform``, ``logit`` or ``metres``.

    Raises:
        ConfigError: an argument is unknown, or does not fit to the others.
    """

    def __init__(
        self,
        depth_range: DepthRange,
        encoding: Encoding = "log",
        num_clips: int | None = None,
        spacing: PairSpacing = "uniform",
    ) -> None:
        if spacing not in get_args(PairSpacing):
            raise ConfigError(f"spacing must be one of {', '.join(get_args(PairSpacing))}, got {spacing!r}")
        metres = whole_metres(depth_range)
        if spacing == "metres" and (encoding != "linear" or num_clips not in (None, metres)):
            raise ConfigError(
                f"spacing: metres needs the encoding linear and, over {depth_range}, {metres} clips; got {encoding} "
                f"and {num_clips}"
            )
        if num_clips is None:
            num_clips = metres if spacing == "metres" else DEFAULT_CLIPS
        if not isinstance(num_clips, int) or not 2 <= num_clips <= MOST_CLIPS:
            raise ConfigError(f"num_clips must be a whole number from 2 to {MOST_CLIPS}, got {num_clips!r}")
        if spacing == "logit" and num_clips % 2:
            raise ConfigError(f"num_clips must be even for spacing: logit, got {num_clips}")
        self.single = HostSingle(depth_range, encoding)
        self.depth_range = depth_range
        self.encoding = encoding
        self.num_clips = num_clips
        self.spacing = spacing
        self.first_m = float(math.floor(depth_range.min_m))
        self.knots = self._knots()
        """``num_clips + 1`` ends of the clips, in codes of the single codec, or in its logits."""

    def __str__(self) -> str:
        of = f"{self.encoding}, " if self.spacing != "metres" else ""
        return f"pair x {self.num_clips}, {of}{self.spacing}"

    def grid_m(self, bits: int = 8) -> NDArray[np.float32]:
        """The depths at the steps of the fraction in every clip, ascending."""
        positions = rounded_codes(self.num_clips, bits)
        depth_m = np.asarray(self._depth_at(np, positions))
        if self.spacing == "metres":  # the first and the last may reach beyond the range
            return depth_m[(depth_m >= self.near_m) & (depth_m <= self.far_m)]
        return np.unique(np.clip(depth_m, self.near_m, self.far_m))

    def encode_with(self, xp: Any, depth_m: Array) -> Array:
        """Integer and fraction of depth."""
        position = self._position_of(xp, depth_m)
        whole = xp.clip(xp.floor(position), 0.0, float(self.num_clips - 1))
        fraction = position - whole
        fraction = xp.where(even(xp, whole), fraction, 1.0 - fraction)
        return xp.concatenate([whole / xp.full_like(whole, float(self.num_clips - 1)), fraction], -3)

    def depth_of(self, xp: Any, codes: Sequence[Array]) -> Array:
        """Depth from integer and fraction."""
        return self._depth_at(xp, self._position(xp, *codes))

    def slopes_with(self, xp: Any, codes: Array) -> Array:
        """0 for the integer, which is rounded; for the fraction, the slope of depth, negative where it falls."""
        codes = xp.clip(codes, 0.0, 1.0)
        integer, fraction = codes[..., :1, :, :], codes[..., 1:, :, :]
        whole = xp.round(integer * float(self.num_clips - 1))
        position = self._position(xp, integer, fraction)
        if self.spacing == "metres":
            slope = xp.full_like(position, 1.0)
        elif self.spacing == "uniform":
            code = position / xp.full_like(position, float(self.num_clips))
            slope = self.single.slopes_with(xp, code) * float32(1 / self.num_clips)
        else:
            code = sigmoid(xp, interpolated(xp, position / xp.full_like(position, float(self.num_clips)), self._table))
            widths = Constants("widths", tuple(float32(width) for width in np.diff(self.knots)))
            slope = self.single.slopes_with(xp, code) * (code * (1.0 - code)) * element(xp, whole, widths)
        return xp.concatenate([integer * 0.0, xp.where(even(xp, whole), slope, -slope)], -3)

    def carry_errors_with(self, xp: Any, codes: Array, reference_m: Array) -> Array:
        """See the base class: another integer would be nearer to the reference by more than a quarter of a clip."""
        integer, fraction = (xp.clip(codes[..., k : k + 1, :, :], 0.0, 1.0) for k in range(2))
        position, wanted = self._position(xp, integer, fraction), self._position_of(xp, reference_m)
        rising = 2.0 * xp.round(0.5 * (wanted - fraction)) + fraction
        falling = 2.0 * xp.round(0.5 * (wanted + fraction)) - fraction
        nearest = xp.where(abs(rising - wanted) <= abs(falling - wanted), rising, falling)
        return abs(position - wanted) - abs(xp.clip(nearest, 0.0, float(self.num_clips)) - wanted) > _CARRY

    def _position(self, xp: Any, integer: Array, fraction: Array) -> Array:
        """Clips that are full, and the part of the next one."""
        whole = named(xp, "whole", xp.round(float(self.num_clips - 1) * integer), "clips that are full")
        is_even = named(xp, "even", even(xp, whole), "in odd clips the fraction falls with depth")
        return named(xp, "position", whole + xp.where(is_even, fraction, 1.0 - fraction))

    def _depth_at(self, xp: Any, position: Array) -> Array:
        """Depth at a position, not yet clipped to the range."""
        if self.spacing == "metres":
            return self.first_m + position if self.first_m else position
        share = named(xp, "share", position / xp.full_like(position, float(self.num_clips)))
        if self.spacing == "logit":
            logits = named(xp, "logit", interpolated(xp, share, self._table))
            share = named(xp, "code", sigmoid(xp, logits))
        return self.single.depth_of(xp, [xp.clip(share, 0.0, 1.0)])

    def _position_of(self, xp: Any, depth_m: Array) -> Array:
        """Position of depth, from 0 to the number of clips; NaN becomes that of the nearest depth."""
        if self.spacing == "metres":
            return self.clamped(xp, depth_m) - self.first_m
        code = self.single.encode_with(xp, depth_m)
        if self.spacing == "uniform":
            return code * float(self.num_clips)
        x = logit(xp, xp.clip(code, float32(SATURATION / 2), float32(1 - SATURATION / 2)))
        position = xp.zeros_like(x)
        for low, high in zip(self.knots, self.knots[1:], strict=False):
            position = position + xp.clip((x - low) / xp.full_like(x, float32(high - low)), 0.0, 1.0)
        return position

    @property
    def _table(self) -> Constants:
        return Constants("knots", tuple(self.knots))

    def _knots(self) -> list[float]:
        if self.spacing == "logit":
            return logit_knots(self.num_clips)
        if self.spacing == "uniform":
            return [k / self.num_clips for k in range(self.num_clips + 1)]
        near_m, far_m = self.near_m, self.far_m
        return [(self.first_m + k - near_m) / (far_m - near_m) for k in range(self.num_clips + 1)]


def whole_metres(depth_range: DepthRange) -> int:
    """Number of whole metres that a range touches."""
    return math.ceil(depth_range.max_m) - math.floor(depth_range.min_m)
