"""The float network as an ONNX file: what a tool chain with PTQ of its own reads."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError

INPUT_NAME = "image"
OUTPUT_NAME = "codes"
OPSET = 19  # the newest that the tool chains tried here all read
_SCOPES = "pkg.torch.onnx.name_scopes"
_OLDEST_OPSET = 18  # torch's exporter writes nothing older: asked for 13 it silently gives 18


def export_float(
    network: nn.Module,
    example_image: Tensor,
    path: Path,
    opset: int = OPSET,
    output_names: Sequence[str] = (OUTPUT_NAME,),
) -> Path:
    """Write ``network`` with a static batch of 1, input ``image`` and named outputs, weights inside the file.

    Args:
        network: float, batch norm folded; it returns one tensor, or a tuple of as many as there are names.
        example_image: ``(1, 3, H, W)``; only its shape and dtype count.
        path: where to; the file is whole or not there.
        opset: version of the ONNX operators, 18 or newer.
        output_names: one for each tensor that the network returns.

    Raises:
        ConfigError: a batch other than 1, or an opset that torch cannot write.
    """
    return write_onnx(network, example_image, path, opset, output_names)


def write_onnx(
    network: nn.Module, example_image: Tensor, path: Path, opset: int, output_names: Sequence[str] = (OUTPUT_NAME,)
) -> Path:
    """What :func:`export_float` and :func:`~depth_distill.export.qdq.export_qdq` share: a call of torch's exporter."""
    if example_image.shape[:2] != (1, 3):
        raise ConfigError(f"example_image: received the shape {tuple(example_image.shape)}, expected (1, 3, H, W)")
    if opset < _OLDEST_OPSET:
        raise ConfigError(f"opset: received {opset}, expected {_OLDEST_OPSET} or newer")
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
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=list(output_names),
                external_data=False,
                verbose=False,
            )
            onnx.save(_without_traces(onnx.load(temporary)), temporary)
    finally:
        network.train(training)
    return path


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the exporter's notes (stack traces with the paths of this machine) but the scopes, which name layers."""
    for owner in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        for note in [each for each in owner.metadata_props if each.key != _SCOPES]:
            owner.metadata_props.remove(note)
    return model
