"""ONNX files as data: read within their folder, whole, and never larger than what is in them."""

import math
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import torch
from onnx import TensorProto, external_data_helper, numpy_helper

from depth_distill.data.reading import lies_inside
from depth_distill.errors import ConfigError, first_line

MOST_VALUES = 1 << 30
"""Values of the largest tensor that is computed or run here: 4 GB of float32."""
TORCH_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
"""Types of the numbers that NumPy and torch share."""


def read_onnx(file: Path, weights: bool = True) -> onnx.ModelProto:
    """The model in a file.

    Args:
        file: the file.
        weights: whether to read weights that lie in files beside it, which must lie in its folder.

    Raises:
        ConfigError: the file does not exist, is no ONNX, has a weight that is not whole, or names a file outside of its
            folder.
    """
    if not file.is_file():
        raise ConfigError(f"{file} {'is a folder' if file.is_dir() else 'does not exist'}: expected an ONNX file")
    try:
        model = onnx.load(file, load_external_data=False)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's own type, without a public base class
        raise ConfigError(f"{file} is no ONNX file, or is truncated: copy or export it again") from error
    if not model.graph.node or not model.graph.output:
        raise ConfigError(f"{file} is no ONNX file: it has no graph")
    _require_known(file, model)
    for tensor in tensors_of(model):
        if external_data_helper.uses_external_data(tensor):
            _require_inside(file, tensor)
    if weights:
        try:
            external_data_helper.load_external_data_for_model(model, str(file.absolute().parent))
        except Exception as error:  # its validation has types of its own
            raise ConfigError(f"{file}: weights beside it cannot be read: {first_line(error)}") from error
        for tensor in tensors_of(model):
            _require_whole(file, tensor)
    return model


def has_external_weights(file: Path) -> bool:
    """Whether weights of a file lie in files beside it."""
    model = read_onnx(file, weights=False)
    return any(map(external_data_helper.uses_external_data, tensors_of(model)))


def tensors_of(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor: initializers, and those of nodes, in branches and functions, too."""
    yield from _tensors_in(model.graph)
    for function in model.functions:
        yield from _tensors_in(function)


def _tensors_in(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[TensorProto]:
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for branch in branches_of(node):
            yield from _tensors_in(branch)


def branches_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside of a node, which also read tensors from around it."""
    return [
        graph
        for attribute in node.attribute
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
    ]


def read_in(graph: onnx.GraphProto) -> Iterator[str]:
    """Every tensor that a graph and its branches read or return, as often as they do."""
    for node in graph.node:
        yield from (name for name in node.input if name)
        for branch in branches_of(node):
            yield from read_in(branch)
    yield from (each.name for each in graph.output)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operator set in a model; 1 where it names none, as ONNX says."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)


def declared_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a model takes; old files list their weights as inputs, too."""
    stored = {each.name for each in model.graph.initializer}
    return [each for each in model.graph.input if each.name not in stored]


def free_name(wanted: str, taken: Collection[str]) -> str:
    """``wanted``, or the first of ``wanted_1``, ``wanted_2``, ... that is not taken."""
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def _require_known(file: Path, model: onnx.ModelProto) -> None:
    """Require a version, types and sizes that exist, and nodes that write something."""
    if opset_of(model) > onnx.defs.onnx_opset_version():
        raise ConfigError(
            f"{file} uses opset {opset_of(model)}, the newest of the installed onnx is {onnx.defs.onnx_opset_version()}"
        )
    for node in model.graph.node:
        if not any(node.output):
            raise ConfigError(f"{file}: {node.op_type} {node.name!r} writes nothing: export it again")
    for each in (*model.graph.input, *model.graph.output):
        kind = each.type.tensor_type
        if kind.elem_type not in TensorProto.DataType.values() or any(dim.dim_value < 0 for dim in kind.shape.dim):
            sizes = [dim.dim_value or dim.dim_param for dim in kind.shape.dim]
            raise ConfigError(
                f"{file}: {each.name!r} has the type {kind.elem_type} and the shape {sizes}: export it again"
            )


def _require_inside(file: Path, tensor: TensorProto) -> None:
    """Require the file of a weight to lie in the folder of the model, as ONNX demands it."""
    location = next((each.value for each in tensor.external_data if each.key == "location"), "")
    folder = file.absolute().parent
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
    if not location or absolute or not lies_inside(folder, location):
        raise ConfigError(
            f"{file}: the weight {tensor.name!r} lies in {location!r}, outside of its folder: do not use this file"
        )


def _require_whole(file: Path, tensor: TensorProto) -> None:
    """Require a tensor to hold as many values as its shape says."""
    try:
        if math.prod(tensor.dims) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values")
        if numpy_helper.to_array(tensor).shape != tuple(tensor.dims):
            raise ValueError("a negative size")
    except Exception as error:  # NumPy's, for a size that does not fit, or a type that ONNX does not know
        raise ConfigError(
            f"{file}: the weight {tensor.name!r} claims the shape {list(tensor.dims)}, which it does not hold "
            f"({first_line(error)}): export the file again"
        ) from error
