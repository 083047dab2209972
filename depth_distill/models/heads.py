"""Heads: the last layers of a network, which return codes. Each head owns the codec that decodes them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from depth_distill.codecs import Decoder, DepthRange, Encoding, Fraction, Integer, Spacing
from depth_distill.errors import ConfigError
from depth_distill.models.codecs import (
    DepthCodec,
    IntegerFractionalCodec,
    SingleCodec,
    ThermometerCodec,
)


class DepthHead(nn.Module, ABC):
    """Maps decoder features ``(B, C, H, W)`` to codes ``(B, codec.channels, H, W)`` in [0, 1].

    All heads here consist of one 3 x 3 convolution ``conv`` and an activation with outputs in [0, 1].
    """

    codec: DepthCodec[Any]
    conv: nn.Conv2d

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Codes in [0, 1]."""


HeadFactory = Callable[[int, DepthRange], DepthHead]
"""Builds a head for a number of input channels and a depth range."""

OutputActivation = Literal["clip", "sigmoid"]


class SingleHead(DepthHead):
    """A 3 x 3 convolution to one code.

    Args:
        in_channels: channels of the decoder's last stage.
        depth_range: depth range that the codes span.
        encoding: ``linear``, ``inverse`` or ``log``, see :class:`~depth_distill.codecs.HostSingle`.
        output: activation that maps to [0, 1]. ``clip`` is piecewise linear: an NPU that fuses it rounds once, in a
            range within [0, 1] that is exactly [0, 1] if calibration reaches both ends. ``sigmoid`` is common in the
            literature (Godard et al. 2019, monodepth2); its pre-activation is rounded as well, in a range that a
            min/max calibrator takes from the largest logit.

    Raises:
        ConfigError: the encoding or output is unknown.
    """

    codec: SingleCodec

    def __init__(
        self,
        in_channels: int,
        depth_range: DepthRange,
        encoding: Encoding = "log",
        output: OutputActivation = "sigmoid",
    ) -> None:
        super().__init__()
        self.codec = SingleCodec(depth_range, encoding)
        self.conv = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.output = _output(output, self.conv)

    def forward(self, features: Tensor) -> Tensor:
        """Codes ``(B, 1, H, W)``."""
        return self.output(self.conv(features))


class IntegerFractionalHead(DepthHead):
    """A 3 x 3 convolution to two codes: whole metres over the farthest, and the fraction of a metre.

    :class:`~depth_distill.codecs.HostIntegerFractional` defines the codes and their decoders. Every decoder can be
    trained with losses in metres, but only losses on codes (``depth_distill.losses.codes``) train both codes as such.

    Args:
        in_channels: channels of the decoder's last stage.
        depth_range: depth range that the codes span.
        decoder: ``sum``, ``round`` or ``unwrap``.
        integer: ``floor`` or ``coarse``.
        fraction: ``sawtooth`` or ``triangle``.
        output: ``sigmoid`` or ``clip``, as in :class:`SingleHead`.

    Raises:
        ConfigError: an argument is unknown, or two of them cannot be combined.
    """

    def __init__(
        self,
        in_channels: int,
        depth_range: DepthRange,
        decoder: Decoder = "unwrap",
        integer: Integer = "coarse",
        fraction: Fraction = "sawtooth",
        output: OutputActivation = "sigmoid",
    ) -> None:
        super().__init__()
        self.codec = IntegerFractionalCodec(depth_range, decoder, integer, fraction)
        self.conv = nn.Conv2d(in_channels, 2, 3, padding=1)
        self.output = _output(output, self.conv)

    def forward(self, features: Tensor) -> Tensor:
        """Codes ``(B, 2, H, W)``: integer, fraction."""
        return self.output(self.conv(features))


class ThermometerHead(DepthHead):
    """A 3 x 3 convolution to ``num_codes`` codes that fill up one after the other, clipped to [0, 1].

    The recipe pass ``thermometer`` converts a trained single head: it repeats the filter ``num_codes`` times with other
    factors and biases. A new head is initialized with such copies of one filter.

    Args:
        in_channels: channels of the decoder's last stage.
        depth_range: depth range that the codes span.
        encoding: encoding of the single code that is divided among the codes.
        num_codes: 2, 4, 8 or 16.
        spacing: ``uniform`` for a head that clips, ``logit`` for one with a sigmoid, see
            :class:`~depth_distill.codecs.HostThermometer`.

    Raises:
        ConfigError: the encoding or spacing is unknown, or the number of codes is another.
    """

    def __init__(
        self,
        in_channels: int,
        depth_range: DepthRange,
        encoding: Encoding = "log",
        num_codes: int = 8,
        spacing: Spacing = "uniform",
    ) -> None:
        super().__init__()
        codec = ThermometerCodec(depth_range, encoding, num_codes, spacing)
        self.codec = codec
        self.knots = codec.host.knots
        self.conv = nn.Conv2d(in_channels, num_codes, 3, padding=1)
        self.output = nn.Hardtanh(0.0, 1.0)
        single = nn.Conv2d(in_channels, 1, 3, padding=1)
        if spacing == "uniform":
            _output("clip", single)
        self.repeat(single)

    def forward(self, features: Tensor) -> Tensor:
        """Codes ``(B, num_codes, H, W)``."""
        return self.output(self.conv(features))

    def repeat(self, single: nn.Conv2d) -> None:
        """Set the filters to compute codes ``(x - x_k) / (x_k+1 - x_k)`` of one filter's output ``x``, in float64."""
        assert single.bias is not None
        with torch.no_grad():
            knots = torch.tensor(self.knots, dtype=torch.float64, device=single.weight.device)
            widths = knots.diff()
            self.conv.weight.copy_(single.weight.double() / widths.view(-1, 1, 1, 1))
            self.conv.bias.copy_((single.bias.double() - knots[:-1]) / widths)  # type: ignore[union-attr]


def _output(name: OutputActivation, conv: nn.Conv2d) -> nn.Module:
    """The activation that maps the output of ``conv`` to [0, 1]."""
    if name not in get_args(OutputActivation):
        raise ConfigError(f"output must be one of {', '.join(get_args(OutputActivation))}, got {name!r}")
    if name == "sigmoid":
        return nn.Sigmoid()
    # A clip has no gradient outside [0, 1], so every pixel starts in the middle.
    nn.init.normal_(conv.weight, std=1e-2)
    nn.init.constant_(conv.bias, 0.5)  # type: ignore[arg-type]
    return nn.Hardtanh(0.0, 1.0)
