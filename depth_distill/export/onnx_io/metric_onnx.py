"""Network and decoder in one file, for hosts that need metres."""

import logging
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from depth_distill.atomic import atomic_path
from depth_distill.codecs import HostCodec
from depth_distill.codecs.arithmetic import Constants, StandIn
from depth_distill.export.onnx_io.edits import to_opset, with_shapes, without_traces, without_unused
from depth_distill.export.onnx_io.file_spec import OLDEST_OF_TORCH, FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.loading.onnx_importer.files import opset_of, read_onnx
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


def append_decoder(file: Path, codec: HostCodec, layout: OutputLayout, path: Path) -> Path:
    """Write the network of an ONNX file, float or with Q/DQ pairs, followed by its decoder in float.

    Args:
        file: the file; its outputs are those of the layout, with static shapes.
        codec: codec of its outputs, such as one behind a decode table.
        layout: layout of its outputs.
        path: path of the new file, which is written completely or not at all; the only output is ``depth_m``.

    Raises:
        OpsetError: the opset of the file cannot express the decoder.
    """
    model = read_onnx(file)
    shapes = {each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in model.graph.output}
    decoder = _decoder(codec, layout, [torch.zeros(shapes[name]) for name in layout.names], opset_of(model))
    decoder.ir_version = model.ir_version
    merged = onnx.compose.merge_models(
        model,
        onnx.compose.add_prefix(decoder, "decoder.", rename_inputs=False, rename_outputs=False),
        [(name, name) for name in layout.names],
    )
    with atomic_path(path) as temporary:
        onnx.save(with_shapes(without_unused(merged)), temporary)
    return path


def _decoder(codec: HostCodec, layout: OutputLayout, outputs: Sequence[Tensor], opset: int) -> onnx.ModelProto:
    """The decoder alone; its inputs have the names of the network's outputs."""
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # deprecations within the exporter itself
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        file = Path(folder) / "decoder.onnx"
        torch.onnx.export(
            MetricNetwork(_Together(), codec, layout).eval(),
            tuple(outputs),
            file,
            dynamo=True,
            opset_version=max(opset, OLDEST_OF_TORCH),
            input_names=list(layout.names),
            output_names=[METRES],
            external_data=False,
            verbose=False,
        )
        return to_opset(without_traces(onnx.load(file)), opset)


class _Together(nn.Module):
    """Takes the place of a network: returns its outputs, which it is given."""

    def forward(self, *outputs: Tensor) -> Sequence[Tensor]:
        return outputs


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

    def forward(self, *inputs: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres."""
        outputs: Tensor | Sequence[Tensor] = self.network(*inputs)
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
