"""Network and decoder in one file, for hosts that need metres."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depth_distill.codecs import HostCodec
from depth_distill.codecs.arithmetic import Constants, StandIn
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.quantization.interface import OutputLayout

METRES = "depth_m"
"""Name of the output, ``(1, 1, H, W)`` metres."""


def export_with_decoder(network: nn.Module, codec: HostCodec, layout: OutputLayout, path: Path, spec: FileSpec) -> Path:
    """Write a float network that returns metres.

    The decoder uses the runtime's own exponential, so depth equals that of the codec to a few units in the last place.

    Args:
        network: float network, see ``export_float``.
        codec: codec of the network.
        layout: layout of the network's outputs.
        path: path of the new file, which is written completely or not at all.
        spec: input and opset; the only output is ``depth_m``.

    Raises:
        ConfigError: see ``export_float``.
    """
    return export_float(MetricNetwork(network, codec, layout), path, replace(spec, output_names=(METRES,)))


class MetricNetwork(nn.Module):
    """A network followed by its decoder, in ONNX operators.

    Args:
        network: float network that returns one tensor, or one per output.
        codec: codec of the network.
        layout: layout of the network's outputs.
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
    """torch for export to ONNX.

    Powers are the runtime's own, which changes the last bits: the codecs assemble powers from the bits of a float,
    which no operator of these opsets can do.
    """

    def full_like(self, values: Tensor, value: float) -> float:
        """A constant instead of a full tensor."""
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _element(places: Tensor, table: Constants) -> Tensor:
    return torch.tensor(table.values)[torch.where(places == places, places, torch.zeros_like(places)).long()]


_IN_ONNX = _InOnnx(
    {
        "power": lambda base, values: torch.exp(values * math.log(base)),
        "sigmoid": torch.sigmoid,
        "element": _element,
    }
)
