"""Base class of all codecs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs.arithmetic import Array, float32, number
from depth_distill.codecs.depth_range import DepthRange


class HostCodec(ABC):
    """Maps ``channels`` codes in [0, 1] to metric depth and back, on the host.

    There is no code for "no depth". ``encode`` returns a code for every number: for depth beyond the range, including 0
    and infinity, that of the nearer end, and for NaN that of the near end; a ``valid`` mask must exclude such pixels.
    ``decode`` clamps codes to [0, 1], so depth is always in its range, and keeps NaN, because a NaN code is an error
    that must stay visible.

    The methods with ``xp``, the array library, are shared by NumPy and torch. All compute in float32. :meth:`depth_of`
    is the only place that defines decoding: the decoders of an export, the formula and the ONNX file are derived from
    it (see :class:`~depth_distill.codecs.arithmetic.StandIn`). So of ``xp`` it may use only ``clip``, ``round``,
    ``where`` and ``full_like``, besides arithmetic, ``<``, ``<=`` and this package's operations.
    """

    channels: int
    depth_range: DepthRange

    def encode(self, depth_m: NDArray[Any]) -> NDArray[np.float32]:
        """Codes ``(..., channels, H, W)`` of depth ``(..., 1, H, W)`` in metres."""
        return np.asarray(self.encode_with(np, np.asarray(depth_m, np.float32)))

    def decode(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Depth ``(..., 1, H, W)`` in metres from codes ``(..., channels, H, W)``."""
        return np.asarray(self.decode_with(np, np.asarray(codes, np.float32)))

    def step_mm(self, depth_m: NDArray[Any], bits: int = 8) -> NDArray[np.float64]:
        """Distance in mm, at each depth, between the two nearest depths that codes of ``bits`` bits can represent."""
        grid_m = self.grid_m(bits).astype(np.float64)
        above = np.clip(np.searchsorted(grid_m, np.asarray(depth_m, np.float64), side="right"), 1, len(grid_m) - 1)
        return np.asarray(1000 * (grid_m[above] - grid_m[above - 1]))

    def worst_error_mm(self, depth_m: NDArray[Any], bits: int = 8) -> NDArray[np.float64]:
        """Largest error in mm at each depth from rounding codes to ``bits`` bits, carry errors aside."""
        return self.step_mm(depth_m, bits) / 2

    @abstractmethod
    def grid_m(self, bits: int = 8) -> NDArray[np.float32]:
        """All depths that encoded and rounded codes can represent, ascending, ``(N,)``."""

    @abstractmethod
    def encode_with(self, xp: Any, depth_m: Array) -> Array:
        """:meth:`encode` for a float32 array of ``xp``."""

    def decode_with(self, xp: Any, codes: Array) -> Array:
        """:meth:`decode` for a float32 array of ``xp``."""
        codes = xp.clip(codes, 0.0, 1.0)
        depth_m = self.depth_of(xp, [codes[..., k : k + 1, :, :] for k in range(self.channels)])
        return xp.clip(depth_m, self.near_m, self.far_m)

    @abstractmethod
    def depth_of(self, xp: Any, codes: Sequence[Array]) -> Array:
        """Depth ``(..., 1, H, W)``, not yet clipped to its range, from one array of that shape per code in [0, 1]."""

    @abstractmethod
    def slopes_with(self, xp: Any, codes: Array) -> Array:
        """Derivative of depth in metres with respect to each code, in the shape of the codes."""

    @property
    def code_names(self) -> tuple[str, ...]:
        """Name of each code in the formula and the exported decoders."""
        return tuple(f"codes[{k}]" for k in range(self.channels))

    @property
    def near_m(self) -> float:
        """The nearest depth as a float32."""
        return float32(self.depth_range.min_m)

    @property
    def far_m(self) -> float:
        """The farthest depth as a float32."""
        return float32(self.depth_range.max_m)

    def ends(self, xp: Any) -> tuple[Any, Any]:
        """The nearest and the farthest depth, as numbers that a formula shows unevaluated."""
        return number(xp, self.near_m), number(xp, self.far_m)

    def clamped(self, xp: Any, depth_m: Array) -> Array:
        """Depth inside the range; NaN becomes the nearest."""
        depth_m = xp.where(depth_m == depth_m, depth_m, xp.full_like(depth_m, self.near_m))
        return xp.clip(depth_m, self.near_m, self.far_m)


def rounded_codes(count: int, bits: int = 8) -> NDArray[np.float32]:
    """Numbers from 0 to ``count`` with ``2^bits - 1`` steps per unit, float32."""
    steps = 2**bits - 1
    return (np.arange(count * steps + 1) / steps).astype(np.float32)
