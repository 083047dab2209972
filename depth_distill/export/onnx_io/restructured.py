"""A new file for an imported network whose layers became several: what goes in and comes out stays, nodes do not."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.opsets.changes import OLDEST
from depth_distill.loading.onnx_importer import ImportedOnnx
from depth_distill.loading.onnx_importer.files import opset_of
from depth_distill.quantization.interface import INPUT_NAME


def is_restructured(imported: ImportedOnnx, graph: fx.GraphModule) -> bool:
    """Whether a graph has layers that the file does not have: those of split_channels, split_weights, clip_ranges."""
    before, after = _called(imported.graph), _called(graph)
    if any(not name.endswith("_affine") for name in after.keys() - before.keys()):  # fold makes those
        return True
    return any(type(each) is nn.Hardtanh and type(before.get(name)) is not nn.Hardtanh for name, each in after.items())


def _called(graph: fx.GraphModule) -> dict[str, nn.Module]:
    names = (str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    return {name: graph.get_submodule(name) for name in names}


def restructured(imported: ImportedOnnx, graph: fx.GraphModule, shape: Sequence[int], path: Path) -> Path:
    """Write a graph as an ONNX file with the inputs, outputs and opset of the file that it was read from.

    Args:
        imported: the file.
        graph: its graph behind passes that split or add layers.
        shape: shape of one input, without the batch.
        path: path of the new file.

    Raises:
        ConfigError: the input is no image (3, H, W) of float32; or see
            :func:`~depth_distill.export.onnx_io.float_onnx.export_float`.
    """
    (given,) = imported.inputs
    if len(shape) != 3 or shape[0] != 3 or given.dtype != torch.float32:
        raise ConfigError(
            f"{imported.file}: a file whose layers became several is written anew, which takes a float32 input of "
            f"(3, H, W), and {given.name!r} is another: leave out split_channels, split_weights and clip_ranges"
        )
    names = tuple(each.name for each in imported.outputs)
    spec = FileSpec(shape[1], shape[2], max(opset_of(imported.model), OLDEST), names)
    export_float(graph, path, spec)
    model = onnx.load(path)
    _rename_input(model, given.name)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _rename_input(model: onnx.ModelProto, name: str) -> None:
    model.graph.input[0].name = name
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            if read == INPUT_NAME:
                node.input[place] = name
