"""Codecs on tensors, which map codes to metres on the host, outside the NPU graph.

The arithmetic is that of :mod:`depth_distill.codecs`, bit-exactly; gradients are added here.
"""

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from depth_distill.codecs import (
    Decoder,
    DepthRange,
    Encoding,
    Fraction,
    HostCodec,
    HostIntegerFractional,
    HostSingle,
    HostThermometer,
    Integer,
    Spacing,
    TwoPartCodec,
)

__all__ = [
    "DepthCodec",
    "Encoding",
    "IntegerFractionalCodec",
    "SingleCodec",
    "ThermometerCodec",
    "carry_errors",
]

_Host = TypeVar("_Host", bound=HostCodec)


class DepthCodec(Generic[_Host]):
    """Maps ``channels`` codes in [0, 1] to metric depth and back.

    Args:
        host: the same codec without torch.
    """

    def __init__(self, host: _Host) -> None:
        self.host = host

    @property
    def channels(self) -> int:
        """Number of codes per pixel."""
        return self.host.channels

    @property
    def depth_range(self) -> DepthRange:
        """Depth range that the codes span."""
        return self.host.depth_range

    def __str__(self) -> str:
        return str(self.host)

    def encode(self, depth_m: Tensor) -> Tensor:
        """Codes ``(B, channels, H, W)`` of a depth map ``(B, 1, H, W)`` in metres, clamped to the depth range.

        Codes are targets and have no gradient. Depth 0, NaN and infinity also get codes: mask them.
        """
        codes: Tensor = self.host.encode_with(torch, depth_m.detach().float())
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres from codes ``(B, channels, H, W)``, with gradients."""
        depth_m: Tensor = _Decode.apply(codes.float(), self.host)
        return depth_m


class SingleCodec(DepthCodec[HostSingle]):
    """One code: :class:`~depth_distill.codecs.HostSingle`."""

    def __init__(self, depth_range: DepthRange, encoding: Encoding = "log") -> None:
        super().__init__(HostSingle(depth_range, encoding))

    @property
    def encoding(self) -> Encoding:
        """``linear``, ``inverse`` or ``log``."""
        return self.host.encoding


class ThermometerCodec(DepthCodec[HostThermometer]):
    """Thermometer codes: :class:`~depth_distill.codecs.HostThermometer`."""

    def __init__(
        self, depth_range: DepthRange, encoding: Encoding = "log", num_codes: int = 8, spacing: Spacing = "uniform"
    ) -> None:
        super().__init__(HostThermometer(depth_range, encoding, num_codes, spacing))


class IntegerFractionalCodec(DepthCodec[HostIntegerFractional]):
    """Whole metres and their fraction: :class:`~depth_distill.codecs.HostIntegerFractional`."""

    def __init__(
        self,
        depth_range: DepthRange,
        decoder: Decoder = "unwrap",
        integer: Integer = "coarse",
        fraction: Fraction = "sawtooth",
    ) -> None:
        super().__init__(HostIntegerFractional(depth_range, decoder, integer, fraction))


def carry_errors(codec: DepthCodec[Any], codes: Tensor, reference_m: Tensor) -> Tensor | None:
    """Bool mask ``(B, 1, H, W)`` of pixels with a wrong whole part; None for a codec without whole parts.

    Args:
        codec: codec of the network.
        codes: codes ``(B, channels, H, W)``.
        reference_m: reference depth in metres ``(B, 1, H, W)``, such as that of the float network.
    """
    if not isinstance(codec.host, TwoPartCodec):
        return None
    wrong: Tensor = codec.host.carry_errors_with(torch, codes.detach().float(), reference_m.detach().float())
    return wrong


class _Decode(torch.autograd.Function):
    """``decode`` of a host codec, with its slopes as the gradient."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, host: HostCodec) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.host = host
        depth_m: Tensor = host.decode_with(torch, codes)
        return depth_m

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (codes,) = ctx.saved_tensors
        return gradient * ctx.host.slopes_with(torch, codes), None
