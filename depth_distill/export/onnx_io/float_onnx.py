"""The float network as an ONNX file: what a tool chain with PTQ of its own reads."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, fx, nn

from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.edits import (
    name_by_layer,
    resize_by_scales,
    take_uint8,
    to_opset,
    with_shapes,
    without_traces,
    without_unused,
)
from depth_distill.quantization.target.target import NpuTarget

INPUT_NAME = "image"
OUTPUT_NAME = "codes"
OPSET = 19  # the newest that the tool chains tried here all read
OLDEST_OPSET = 17
_OLDEST_OF_TORCH = 18  # torch's exporter writes nothing older: asked for 13 it silently gives 18


def opset_for(target: NpuTarget) -> int:
    """The newest version of the ONNX operators that this package writes unasked and the target reads.

    It is 17, the oldest that can be written, for a target that reads only older ones; the check of operators says so.
    """
    newest = target.operators.max_opset
    return OPSET if newest is None else max(OLDEST_OPSET, min(OPSET, newest))


def export_float(
    network: nn.Module,
    example_image: Tensor,
    path: Path,
    opset: int = OPSET,
    output_names: Sequence[str] = (OUTPUT_NAME,),
    uint8_input: bool = False,
) -> Path:
    """Write ``network`` with a static batch of 1, input ``image`` and named outputs, weights inside the file.

    Nodes and tensors are called after the layers they come from, the shape of every tensor is written down, and what is
    resized by powers of two has constant scales (see :func:`~depth_distill.export.onnx_io.edits.resize_by_scales`).

    Args:
        network: float, batch norm folded; it returns one tensor, or a tuple of as many as there are names.
        example_image: ``(1, 3, H, W)``; only its shape and dtype count.
        path: where to; the file is whole or not there.
        opset: version of the ONNX operators, 17 or newer.
        output_names: one for each tensor that the network returns.
        uint8_input: ``image`` is uint8 in the file; for a network from
            :func:`~depth_distill.export.interface.inputs.fold_normalization`, which reads pixels.

    Raises:
        ConfigError: a batch other than 1, an opset that cannot be written, names that do not fit what the network
            returns.
    """
    return write_onnx(network, example_image, path, opset, output_names, uint8_input)


def write_onnx(
    network: nn.Module,
    example_image: Tensor,
    path: Path,
    opset: int,
    output_names: Sequence[str] = (OUTPUT_NAME,),
    uint8_input: bool = False,
) -> Path:
    """Write any graph: torch's exporter and the edits that float and QDQ files share."""
    if example_image.shape[:2] != (1, 3):
        raise ConfigError(f"example_image: received the shape {tuple(example_image.shape)}, expected (1, 3, H, W)")
    if opset < OLDEST_OPSET:
        raise ConfigError(f"opset: received {opset}, expected {OLDEST_OPSET} or newer")
    training = network.training
    try:
        with atomic_path(path) as temporary, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter's own parts, about each other
            logging.getLogger("onnxscript").setLevel(logging.ERROR)
            torch.onnx.export(
                network.eval(),
                (example_image,),
                temporary,
                dynamo=True,
                opset_version=max(opset, _OLDEST_OF_TORCH),
                input_names=[INPUT_NAME],
                output_names=list(output_names),
                external_data=False,
                verbose=False,
            )
            model = without_traces(onnx.load(temporary))
            found = [each.name for each in model.graph.output]
            if found != list(output_names):
                raise ConfigError(
                    f"output_names: received {', '.join(output_names)}, but the network returns {len(found)} tensors"
                )
            model = name_by_layer(model, _layers(network), network.state_dict())
            if uint8_input:
                model = take_uint8(model, INPUT_NAME)
            onnx.save(with_shapes(without_unused(to_opset(resize_by_scales(model), opset))), temporary)
    finally:
        network.train(training)
    return path


def _layers(network: nn.Module) -> set[str]:
    """Paths of the modules that are one layer: those that a graph calls, elsewhere those that hold no others."""
    if isinstance(network, fx.GraphModule):
        return {str(node.target) for node in network.graph.nodes if node.op == "call_module"}
    return {name for name, module in network.named_modules() if not list(module.children())}
