"""Network and decoder in one file, for hosts that want metres."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depth_distill.codecs import HostCodec, HostIntegerFractional, HostSingle, HostThermometer
from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import write_onnx
from depth_distill.quantization.interface import OutputLayout

METRES = "depth_m"
"""Name of the output, ``(1, 1, H, W)`` metres."""


def export_with_decoder(network: nn.Module, codec: HostCodec, layout: OutputLayout, path: Path, spec: FileSpec) -> Path:
    """Write a float network that ends in metres.

    The decoder uses the runtime's own exponential, so depth is that of the codec up to a few units in the last place.

    Args:
        network: float network, as ``export_float`` takes it.
        codec: codec of the network.
        layout: what the network returns.
        path: path of the new file, which is whole or not there.
        spec: input and opset; the one output is ``depth_m``.

    Raises:
        ConfigError: as ``export_float``, or a codec that is none of this package's.
    """
    return write_onnx(MetricNetwork(network, codec, layout), path, replace(spec, output_names=(METRES,)))


class MetricNetwork(nn.Module):
    """A network followed by its decoder, in operators that ONNX has.

    Args:
        network: returns a tensor, or one an output.
        codec: of the network.
        layout: what the network returns.

    Raises:
        ConfigError: a codec that is none of this package's.
    """

    def __init__(self, network: nn.Module, codec: HostCodec, layout: OutputLayout) -> None:
        super().__init__()
        if not isinstance(codec, HostSingle | HostThermometer | HostIntegerFractional):
            raise ConfigError(f"a codec of class {type(codec).__name__} cannot be written into a file")
        self.network = network
        self.codec = codec
        self.layout = layout

    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres."""
        outputs: Tensor | Sequence[Tensor] = self.network(image)
        together = outputs if isinstance(outputs, Tensor) else torch.cat(list(outputs), dim=1)
        codes = (together.sigmoid() if self.layout.logits else together).clamp(0, 1)
        return self._decode(codes).clamp(self.codec.near_m, self.codec.far_m)

    def _decode(self, codes: Tensor) -> Tensor:
        codec: Any = self.codec
        if isinstance(codec, HostSingle):
            return _single(codec, codes)
        if isinstance(codec, HostThermometer):
            widths = torch.tensor(codec.widths).view(1, -1, 1, 1)
            position = (codes * widths).sum(1, keepdim=True) + codec.knots[0]
            return _single(codec.single, (position.sigmoid() if codec.spacing == "logit" else position).clamp(0, 1))
        integer, fraction = codes[:, :1], codes[:, 1:]
        coarse_m = integer * codec.metres
        if codec.decoder == "sum":
            return coarse_m + fraction
        if codec.decoder == "round":
            whole = torch.round(coarse_m)
            odd = whole - 2 * torch.floor(whole / 2)
            falling = odd if codec.fraction == "triangle" else torch.zeros_like(odd)
            return whole + fraction + falling * (1 - 2 * fraction)
        coarse_m = coarse_m + 0.5 if codec.integer == "floor" else coarse_m
        if codec.fraction == "sawtooth":
            return torch.round(coarse_m - fraction) + fraction
        rising = torch.round((coarse_m - fraction) * 0.5) * 2 + fraction
        falling_m = torch.round((coarse_m + fraction) * 0.5) * 2 - fraction
        return torch.where((rising - coarse_m).abs() <= (falling_m - coarse_m).abs(), rising, falling_m)


def _single(codec: HostSingle, code: Tensor) -> Tensor:
    near_m, far_m = codec.near_m, codec.far_m
    if codec.encoding == "linear":
        return code * codec.span_m + near_m
    if codec.encoding == "inverse":
        return near_m * far_m / ((1 - code) * codec.span_m + near_m)
    return torch.exp(code * math.log(far_m / near_m)) * near_m
