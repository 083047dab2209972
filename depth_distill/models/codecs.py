"""Codecs: what a network's codes mean in metres. Decoding happens on the host, outside the NPU graph."""

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from depth_distill.errors import ConfigError
from depth_distill.types import DepthRange

Encoding = Literal["linear", "inverse", "log"]


class DepthCodec(ABC):
    """Maps ``channels`` codes in [0, 1] to metric depth and back."""

    channels: int
    depth_range: DepthRange

    @abstractmethod
    def encode(self, depth_m: Tensor) -> Tensor:
        """Codes ``(B, channels, H, W)`` of a depth map ``(B, 1, H, W)`` in metres, clamped to the depth range."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres of codes ``(B, channels, H, W)``."""


class SingleCodec(DepthCodec):
    """One code per pixel, spread over the depth range evenly in depth, in inverse depth or in log depth.

    With ``u`` the code, ``a`` the nearest and ``b`` the farthest depth:

    * ``linear``: ``a + u (b - a)``; constant step, 56.9 mm at 8 bits over 0.5 to 15 m;
    * ``inverse``: ``1 / (1/a + u (1/b - 1/a))``; step grows with the square of depth, as in a stereo camera;
    * ``log``: ``a (b/a)^u``; step grows with depth, so the *relative* error is constant (1.3 % at 8 bits).

    All three increase with ``u``: code 0 is the nearest depth.

    Args:
        depth_range: nearest and farthest depth.
        encoding: one of the three above.

    Raises:
        ConfigError: unknown encoding.
    """

    channels = 1

    def __init__(self, depth_range: DepthRange, encoding: Encoding = "log") -> None:
        if encoding not in get_args(Encoding):
            raise ConfigError(f"encoding must be one of {', '.join(get_args(Encoding))}, got {encoding!r}")
        self.depth_range = depth_range
        self.encoding = encoding

    def encode(self, depth_m: Tensor) -> Tensor:
        """Codes ``(B, 1, H, W)`` in [0, 1]."""
        near, far = self.depth_range.min_m, self.depth_range.max_m
        depth_m = depth_m.clamp(near, far)
        if self.encoding == "linear":
            return (depth_m - near) / (far - near)
        if self.encoding == "inverse":
            return (1 / depth_m - 1 / near) / (1 / far - 1 / near)
        return torch.log(depth_m / near) / math.log(far / near)

    def decode(self, codes: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres."""
        near, far = self.depth_range.min_m, self.depth_range.max_m
        if self.encoding == "linear":
            return near + codes * (far - near)
        if self.encoding == "inverse":
            return 1 / (1 / near + codes * (1 / far - 1 / near))
        return near * torch.exp(codes * math.log(far / near))
