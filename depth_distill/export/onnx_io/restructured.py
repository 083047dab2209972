"""A new file for an imported network whose layers became several: what goes in and comes out stays, nodes do not."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.opsets.changes import OLDEST
from depth_distill.loading.onnx_importer import ImportedOnnx
from depth_distill.loading.onnx_importer.files import opset_of
from depth_distill.loading.onnx_importer.session import open_session, run_session, session_options
from depth_distill.quantization.interface import INPUT_NAME

_WAY_OUT = "leave out split_channels, split_weights and clip_ranges"


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
        ConfigError: the input is no image (3, H, W) of float32; the file takes any batch, and the new one would not;
            or see :func:`~depth_distill.export.onnx_io.float_onnx.export_float`.
    """
    (given,) = imported.inputs
    if len(shape) != 3 or shape[0] != 3 or given.dtype != torch.float32:
        raise ConfigError(
            f"{imported.file}: a file whose layers became several is written anew, which takes a float32 input of "
            f"(3, H, W), and {given.name!r} is another: {_WAY_OUT}"
        )
    names = tuple(each.name for each in imported.outputs)
    spec = FileSpec(shape[1], shape[2], max(opset_of(imported.model), OLDEST), names)
    export_float(graph, path, spec)
    model = onnx.load(path)
    _rename_input(model, given.name)
    model = _with_batch_of(imported, model)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ConfigError(
            f"{imported.file}: written anew it is no valid ONNX file ({str(error).splitlines()[0]}): {_WAY_OUT}"
        ) from error
    onnx.save(model, path)
    return path


def _with_batch_of(imported: ImportedOnnx, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, which has a batch of 1, with a dynamic batch where the file has one."""
    old = {each.name: each for each in (*imported.model.graph.input, *imported.model.graph.output)}
    dynamic = copy.deepcopy(model)
    for each in (*dynamic.graph.input, *dynamic.graph.output):
        shape, theirs = each.type.tensor_type.shape.dim, old[each.name].type.tensor_type.shape.dim
        if shape and theirs and not theirs[0].dim_value:
            shape[0].CopyFrom(theirs[0])
    if dynamic == model:
        return model
    del dynamic.graph.value_info[:]  # of a batch of 1
    dynamic = onnx.shape_inference.infer_shapes(dynamic)
    name, sizes = imported.inputs[0].name, [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim]
    pair = np.random.default_rng(0).standard_normal((2, *sizes[1:])).astype(np.float32)
    outputs = [each.name for each in dynamic.graph.output]
    try:
        session = open_session(dynamic.SerializeToString(), imported.file, session_options(threads=1))
        both, first, second = (
            run_session(session, {name: each}, imported.file, outputs) for each in (pair, pair[:1], pair[1:])
        )
    except ConfigError as error:
        raise ConfigError(f"{imported.file}: written anew it takes a batch of 1 only: {_WAY_OUT}") from error
    if not all(np.allclose(a, np.concatenate([b, c]), 1e-3, 1e-4) for a, b, c in zip(both, first, second, strict=True)):
        raise ConfigError(f"{imported.file}: written anew it takes a batch of 1 only: {_WAY_OUT}")
    return dynamic


def _rename_input(model: onnx.ModelProto, name: str) -> None:
    model.graph.input[0].name = name
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            if read == INPUT_NAME:
                node.input[place] = name
