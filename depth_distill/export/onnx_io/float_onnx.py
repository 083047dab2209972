"""The float network as an ONNX file, for tool chains with their own PTQ."""

import logging
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import fx, nn

from depth_distill.atomic import atomic_path
from depth_distill.device import on_cpu
from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.edits import (
    constants_of_four_axes,
    name_by_layer,
    resize_by_scales,
    take_uint8,
    to_opset,
    with_shapes,
    without_traces,
    without_unused,
)
from depth_distill.export.onnx_io.file_spec import OLDEST_OF_TORCH, FileSpec
from depth_distill.export.onnx_io.written import require_same_as_network
from depth_distill.loading.onnx_importer.files import opset_of
from depth_distill.quantization.interface import INPUT_NAME


def export_float(network: nn.Module, path: Path, spec: FileSpec) -> Path:
    """Write ``network`` with a static batch of 1, the input ``image``, named outputs, and weights inside the file.

    Nodes and tensors are named after their layers, the shape of every tensor is recorded, and a Resize by powers of two
    has constant scales (see :func:`~depth_distill.export.onnx_io.edits.resize_by_scales`).

    Args:
        network: float network with batch norm folded; it returns one tensor, or a tuple of one tensor per name.
        path: path of the new file, which is written completely or not at all.
        spec: input, outputs and opset.

    Raises:
        OpsetError: the opset cannot express an operator of the network.
        ConfigError: the number of output names differs from the number of tensors that the network returns, or ONNX
            Runtime computes something else from the file than the network does.
    """
    network = on_cpu(network)
    with atomic_path(path) as temporary:
        model = with_shapes(to_opset(exported(network, spec), spec.opset))
        require_same_as_network(model, network, spec, path)
        onnx.save(model, temporary)
    return path


def exported(network: nn.Module, spec: FileSpec) -> onnx.ModelProto:
    """The model of a graph from torch's exporter, with the edits that float and QDQ files share.

    Its opset is that of the spec, but not older than 18, the oldest of the exporter: see
    :func:`~depth_distill.export.onnx_io.edits.to_opset`.

    Raises:
        ConfigError: the number of output names differs from the number of tensors that the network returns.
    """
    training = network.training
    try:
        with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # deprecations within the exporter itself
            logging.getLogger("onnxscript").setLevel(logging.ERROR)
            file = Path(folder) / "model.onnx"
            torch.onnx.export(
                network.eval(),
                (spec.example,),
                file,
                dynamo=True,
                opset_version=max(spec.opset, OLDEST_OF_TORCH),
                input_names=[INPUT_NAME],
                output_names=list(spec.output_names),
                external_data=False,
                verbose=False,
            )
            model = without_traces(onnx.load(file))
    finally:
        network.train(training)
    found = [each.name for each in model.graph.output]
    if found != list(spec.output_names):
        raise ConfigError(
            f"output_names: received {', '.join(spec.output_names)}, but the network returns {len(found)} tensors"
        )
    model = name_by_layer(model, _layers(network), network.state_dict())
    if spec.uint8_input:
        model = take_uint8(model, INPUT_NAME)
    model = constants_of_four_axes(resize_by_scales(model))
    # Torch's exporter does not convert every operator to a newer opset.
    return with_shapes(without_unused(to_opset(model, max(spec.opset, opset_of(model)))))


def _layers(network: nn.Module) -> set[str]:
    """Paths of the modules that are one layer: those that a graph calls, otherwise those without children."""
    if isinstance(network, fx.GraphModule):
        return {str(node.target) for node in network.graph.nodes if node.op == "call_module"}
    return {name for name, module in network.named_modules() if not list(module.children())}
