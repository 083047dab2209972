"""The float network as an ONNX file, for tool chains with their own PTQ."""

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import fx, nn

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
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.quantization.interface import INPUT_NAME

_OLDEST_OF_TORCH = 18  # torch's exporter writes nothing older: for 13 it silently writes 18


def export_float(network: nn.Module, path: Path, spec: FileSpec) -> Path:
    """Write ``network`` with a static batch of 1, the input ``image``, named outputs, and weights inside the file.

    Nodes and tensors are named after their layers, the shape of every tensor is recorded, and a Resize by powers of two
    has constant scales (see :func:`~depth_distill.export.onnx_io.edits.resize_by_scales`).

    Args:
        network: float network with batch norm folded; it returns one tensor, or a tuple of one tensor per name.
        path: path of the new file, which is written completely or not at all.
        spec: input, outputs and opset.

    Raises:
        ConfigError: the number of output names differs from the number of tensors that the network returns.
    """
    return write_onnx(network, path, spec)


def write_onnx(network: nn.Module, path: Path, spec: FileSpec) -> Path:
    """Write any graph with torch's exporter and the edits that float and QDQ files share."""
    training = network.training
    try:
        with atomic_path(path) as temporary, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations within the exporter itself
            logging.getLogger("onnxscript").setLevel(logging.ERROR)
            torch.onnx.export(
                network.eval(),
                (spec.example,),
                temporary,
                dynamo=True,
                opset_version=max(spec.opset, _OLDEST_OF_TORCH),
                input_names=[INPUT_NAME],
                output_names=list(spec.output_names),
                external_data=False,
                verbose=False,
            )
            model = without_traces(onnx.load(temporary))
            found = [each.name for each in model.graph.output]
            if found != list(spec.output_names):
                raise ConfigError(
                    f"output_names: received {', '.join(spec.output_names)}, but the network returns {len(found)} "
                    "tensors"
                )
            model = name_by_layer(model, _layers(network), network.state_dict())
            if spec.uint8_input:
                model = take_uint8(model, INPUT_NAME)
            onnx.save(with_shapes(without_unused(to_opset(resize_by_scales(model), spec.opset))), temporary)
    finally:
        network.train(training)
    return path


def _layers(network: nn.Module) -> set[str]:
    """Paths of the modules that are one layer: those that a graph calls, otherwise those without children."""
    if isinstance(network, fx.GraphModule):
        return {str(node.target) for node in network.graph.nodes if node.op == "call_module"}
    return {name for name, module in network.named_modules() if not list(module.children())}
