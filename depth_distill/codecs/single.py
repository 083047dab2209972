"""One code per pixel."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs.arithmetic import Array, float32, log2_ratio, power
from depth_distill.codecs.base import HostCodec, rounded_codes
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.errors import ConfigError

Encoding = Literal["linear", "inverse", "log"]


class HostSingle(HostCodec):
    """One code, spread over the depth range evenly in depth, in inverse depth or in log depth.

    With ``u`` the code, ``a`` the nearest and ``b`` the farthest depth:

    * ``linear``: ``a + u (b - a)``; constant step, 56.9 mm at 8 bits over 0.5 to 15 m;
    * ``inverse``: ``1 / (1/a + u (1/b - 1/a))``; step grows with the square of depth, as in a stereo camera;
    * ``log``: ``a (b/a)^u``; step grows with depth, so the *relative* error is constant (1.3 % at 8 bits).

    All three increase with ``u``: code 0 is the nearest depth. Compared with exact arithmetic on the same float32
    input, ``decode`` is accurate to 3 units in the last place, ``encode`` to 5.

    Args:
        depth_range: nearest and farthest depth.
        encoding: ``linear``, ``inverse`` or ``log``.

    Raises:
        ConfigError: the encoding is unknown.
    """

    channels = 1
    code_names = ("code",)

    def __init__(self, depth_range: DepthRange, encoding: Encoding = "log") -> None:
        if encoding not in get_args(Encoding):
            raise ConfigError(f"encoding must be one of {', '.join(get_args(Encoding))}, got {encoding!r}")
        self.depth_range = depth_range
        self.encoding = encoding
        self.span_m = float32(self.far_m - self.near_m)
        self.octaves = math.log2(self.far_m / self.near_m)

    def __str__(self) -> str:
        return f"single, {self.encoding}"

    def grid_m(self, bits: int = 8) -> NDArray[np.float32]:
        """``2^bits`` depths."""
        return self.decode(rounded_codes(1, bits).reshape(1, 1, -1)).ravel()

    def encode_with(self, xp: Any, depth_m: Array) -> Array:
        """Code ``(..., 1, H, W)`` of depth."""
        depth_m = self.clamped(xp, depth_m)
        if self.encoding == "linear":
            codes = (depth_m - self.near_m) / xp.full_like(depth_m, self.span_m)
        elif self.encoding == "inverse":
            # (1/a - 1/d) / (1/a - 1/b) without differences of quotients, which suffer from cancellation.
            codes = ((depth_m - self.near_m) * self.far_m) / (depth_m * self.span_m)
        else:
            octaves = log2_ratio(xp, depth_m, xp.full_like(depth_m, self.near_m))
            codes = octaves / xp.full_like(depth_m, float32(self.octaves))
        return xp.clip(codes, 0.0, 1.0)

    def depth_of(self, xp: Any, codes: Sequence[Array]) -> Array:
        """Depth from one code."""
        (code,) = codes
        near_m, far_m = self.ends(xp)
        if self.encoding == "linear":
            return near_m + (far_m - near_m) * code
        if self.encoding == "inverse":
            # There is no cancellation: 1 - u is exact if it is small.
            return xp.full_like(code, near_m * far_m) / (near_m + (far_m - near_m) * (1.0 - code))
        return near_m * power(xp, far_m / near_m, code)

    def slopes_with(self, xp: Any, codes: Array) -> Array:
        """``b - a``, ``d^2 (1/a - 1/b)`` or ``d ln(b/a)``."""
        if self.encoding == "linear":
            return xp.full_like(codes, self.span_m)
        depth_m = self.decode_with(xp, codes)
        if self.encoding == "inverse":
            return depth_m * depth_m * (1 / self.near_m - 1 / self.far_m)
        return depth_m * math.log(self.far_m / self.near_m)
