"""Heads: the last layers of a network. A head ends the NPU graph in codes and owns the codec that reads them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn

from depth_distill.errors import ConfigError
from depth_distill.models.codecs import DepthCodec, Encoding, SingleCodec
from depth_distill.types import DepthRange


class DepthHead(nn.Module, ABC):
    """Turns decoder features ``(B, C, H, W)`` into codes ``(B, codec.channels, H, W)`` in [0, 1]."""

    codec: DepthCodec

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
        depth_range: what the codes span.
        encoding: ``linear``, ``inverse`` or ``log``, see :class:`~depth_distill.models.codecs.SingleCodec`.
        output: how the pre-activation gets into [0, 1]. ``clip`` is piecewise linear, so its quantized form loses
            nothing at the ends, and its range is exactly [0, 1] whatever a min/max calibrator sees. ``sigmoid`` is
            the published habit (Godard et al. 2019, monodepth2).

    Raises:
        ConfigError: unknown encoding or output.
    """

    def __init__(
        self,
        in_channels: int,
        depth_range: DepthRange,
        encoding: Encoding = "log",
        output: OutputActivation = "sigmoid",
    ) -> None:
        super().__init__()
        if output not in get_args(OutputActivation):
            raise ConfigError(f"output must be one of {', '.join(get_args(OutputActivation))}, got {output!r}")
        self.codec = SingleCodec(depth_range, encoding)
        self.conv = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.output: nn.Module = nn.Sigmoid() if output == "sigmoid" else nn.Hardtanh(0.0, 1.0)
        if output == "clip":
            # A clip passes no gradient outside [0, 1]: start every pixel in the middle, where it does.
            nn.init.normal_(self.conv.weight, std=1e-2)
            nn.init.constant_(self.conv.bias, 0.5)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Codes ``(B, 1, H, W)``."""
        return self.output(self.conv(features))
