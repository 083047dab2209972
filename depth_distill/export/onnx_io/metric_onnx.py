"""Network and decoder in one file, for hosts that want metres."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depth_distill.codecs import HostCodec
from depth_distill.codecs.arithmetic import StandIn
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
        ConfigError: as ``export_float``.
    """
    return write_onnx(MetricNetwork(network, codec, layout), path, replace(spec, output_names=(METRES,)))


class MetricNetwork(nn.Module):
    """A network followed by its decoder, in operators that ONNX has.

    Args:
        network: returns a tensor, or one an output.
        codec: of the network.
        layout: what the network returns.
    """

    def __init__(self, network: nn.Module, codec: HostCodec, layout: OutputLayout) -> None:
        super().__init__()
        self.network = network
        self.codec = codec
        self.layout = layout

    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres."""
        outputs: Tensor | Sequence[Tensor] = self.network(image)
        together = outputs if isinstance(outputs, Tensor) else torch.cat(list(outputs), dim=1)
        codes = together.sigmoid() if self.layout.logits else together
        depth_m: Tensor = self.codec.decode_with(_IN_ONNX, codes)
        return depth_m


class _InOnnx(StandIn):
    """torch, as it is exported.

    Powers are the runtime's own, which costs the last bits: those of the codecs are put together from the bits of a
    float, which no operator of these opsets can set.
    """

    def full_like(self, values: Tensor, value: float) -> float:
        """A constant, instead of an image full of it."""
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


_IN_ONNX = _InOnnx({"power": lambda base, values: torch.exp(values * math.log(base)), "sigmoid": torch.sigmoid})
