"""Thermometer codes: several codes that fill up one after the other."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs.arithmetic import Array, float32, logit, named, sigmoid
from depth_distill.codecs.base import HostCodec, rounded_codes
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.codecs.single import Encoding, HostSingle
from depth_distill.errors import ConfigError

_NUM_CODES = (2, 4, 8, 16)
Spacing = Literal["uniform", "logit"]

SATURATION = 1e-5  # share of the range that the logit spacing cuts off at either end


class HostThermometer(HostCodec):
    """``num_codes`` codes that share the code ``u`` of a single codec, so that each is finer by that factor.

    ``uniform`` (for a head that clips): ``code_k = clip(K u - k, 0, 1)`` and ``u = sum(code_k) / K``.

    ``logit`` (for a head with a sigmoid): the same for the pre-activation ``x``, with the sigmoid on the host:
    ``code_k = clip((x - x_k) / (x_k+1 - x_k), 0, 1)``, ``x = x_0 + sum(code_k (x_k+1 - x_k))``, ``u = sigmoid(x)``. The
    knots ``x_k`` run from logit(1e-5) to -logit(1e-5), with spacing such that the largest step of ``u`` is the same in
    every code.

    Depth is continuous: where one code is full, the next begins, so a rounding error is at most one step.

    Args:
        depth_range: nearest and farthest depth.
        encoding: encoding of the single codec.
        num_codes: 2, 4, 8 or 16.
        spacing: ``uniform`` or ``logit``.

    Raises:
        ConfigError: the encoding or spacing is unknown, or the number of codes is another.
    """

    def __init__(
        self, depth_range: DepthRange, encoding: Encoding = "log", num_codes: int = 8, spacing: Spacing = "uniform"
    ) -> None:
        if not isinstance(num_codes, int) or num_codes not in _NUM_CODES:
            raise ConfigError(f"num_codes must be one of {', '.join(map(str, _NUM_CODES))}, got {num_codes!r}")
        if spacing not in get_args(Spacing):
            raise ConfigError(f"spacing must be one of {', '.join(get_args(Spacing))}, got {spacing!r}")
        self.single = HostSingle(depth_range, encoding)
        self.depth_range = depth_range
        self.encoding = encoding
        self.spacing = spacing
        self.num_codes = self.channels = num_codes
        self.knots = _knots(num_codes, spacing)
        self.widths = [float32(b - a) for a, b in zip(self.knots, self.knots[1:], strict=False)]

    def __str__(self) -> str:
        return f"thermometer x {self.channels}, {self.encoding}" + ", logit" * (self.spacing == "logit")

    def grid_m(self, bits: int = 8) -> NDArray[np.float32]:
        """``num_codes (2^bits - 1) + 1`` depths, ascending."""
        filled = rounded_codes(self.channels, bits)
        codes = np.clip(filled[None] - np.arange(self.channels, dtype=np.float32)[:, None], 0, 1)
        return self.decode(codes[:, None]).ravel()

    def encode_with(self, xp: Any, depth_m: Array) -> Array:
        """Codes ``(..., num_codes, H, W)`` of depth."""
        position = self.single.encode_with(xp, depth_m)
        if self.spacing == "logit":
            position = logit(xp, xp.clip(position, float32(SATURATION / 2), float32(1 - SATURATION / 2)))
        codes = [
            xp.clip((position - knot) / xp.full_like(position, width), 0.0, 1.0)
            for knot, width in zip(self.knots, self.widths, strict=False)
        ]
        return xp.concatenate(codes, -3)

    def depth_of(self, xp: Any, codes: Sequence[Array]) -> Array:
        """Depth from ``num_codes`` codes."""
        return self.single.depth_of(xp, [xp.clip(self._position(xp, codes), 0.0, 1.0)])

    def slopes_with(self, xp: Any, codes: Array) -> Array:
        """The slope of the single codec times the share of each code."""
        codes = xp.clip(codes, 0.0, 1.0)
        position = self._position(xp, [codes[..., k : k + 1, :, :] for k in range(self.channels)])
        slope = self.single.slopes_with(xp, position)
        if self.spacing == "logit":
            slope = slope * (position * (1.0 - position))
        return xp.concatenate([slope * width for width in self.widths], -3)

    def _position(self, xp: Any, codes: Sequence[Array]) -> Array:
        """The code of the single codec; terms are added in a fixed order, because rounding depends on it."""
        name = "logit" if self.spacing == "logit" else "position"
        first, *others = (width * code for code, width in zip(codes, self.widths, strict=True))
        total = named(xp, name, self.knots[0] + first if self.knots[0] else first, "added up in this order")
        for term in others:
            total = named(xp, name, total + term)
        return named(xp, "position", sigmoid(xp, total)) if self.spacing == "logit" else total


def _knots(num_codes: int, spacing: Spacing) -> list[float]:
    """``num_codes + 1`` ascending float32 numbers."""
    return [k / num_codes for k in range(num_codes + 1)] if spacing == "uniform" else logit_knots(num_codes)


def logit_knots(num_codes: int) -> list[float]:
    """``num_codes + 1`` ascending float32 logits, between which the largest step of the sigmoid is the same.

    Args:
        num_codes: an even number.
    """
    end = math.log((1 - SATURATION) / SATURATION)
    # From 0 outwards, each width is the step over the slope of the sigmoid at its inner end; bisect to find the step.
    low, high = 0.0, 4 * end
    for _ in range(64):
        step = (low + high) / 2
        knot = 0.0
        for _ in range(num_codes // 2):
            knot = min(knot + step * (2 + math.exp(knot) + math.exp(-knot)), 2 * end)
        low, high = (step, high) if knot < end else (low, step)
    right = [0.0]
    for _ in range(num_codes // 2):
        right.append(right[-1] + high * (2 + math.exp(right[-1]) + math.exp(-right[-1])))
    right[-1] = end
    return [-float32(knot) for knot in right[:0:-1]] + [float32(knot) for knot in right]
