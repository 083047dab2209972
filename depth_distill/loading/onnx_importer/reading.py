"""From a file to a model with fixed shapes and without what hides its arithmetic."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, inliner

from depth_distill.errors import ConfigError
from depth_distill.loading.onnx_importer.files import (
    TORCH_TYPES,
    branches_of,
    declared_inputs,
    opset_of,
    read_in,
    read_onnx,
)
from depth_distill.suggestions import did_you_mean

OPSETS = range(9, 22)
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class OnnxTensor:
    """An input or output of a file.

    Attributes:
        name: its name in the file.
        shape: its shape, as imported.
        dtype: its type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def read_model(file: Path) -> onnx.ModelProto:
    """The model in a file, with weights that lie in files beside it.

    Raises:
        ConfigError: see :func:`~depth_distill.loading.onnx_importer.files.read_onnx`; or the operator set is not one of
            :data:`OPSETS`.
    """
    model = read_onnx(file)
    opset = opset_of(model)
    if opset not in OPSETS:
        raise ConfigError(
            f"{file} uses opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}: convert it with onnx.version_converter"
        )
    for tensor in model.graph.initializer:
        if tensor.data_type in _HALVES and len(tensor.dims) > 1:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise ConfigError(f"{file} holds weights in {kind} ({tensor.name}), expected float: export it in float32")
    return model


def plain(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A copy with local functions inlined and Q/DQ pairs of activations removed, and the number of these pairs.

    The DequantizeLinear of a stored weight stays: its output is a constant.
    """
    model = inliner.inline_local_functions(model) if model.functions else copy.deepcopy(model)
    return model, _strip_pairs(model.graph)


def input_tensors(
    file: Path, model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[OnnxTensor, ...]:
    """The inputs of a model; a dynamic batch is 1.

    Args:
        file: the file, for messages.
        model: its content.
        shapes: shapes of inputs with other dynamic dimensions, by name.

    Raises:
        ConfigError: a dimension is dynamic and not given, a given shape does not fit, or an input is no tensor.
    """
    inputs = declared_inputs(model)
    given = {name: tuple(int(size) for size in shape) for name, shape in (shapes or {}).items()}
    for name in given:
        if name not in [each.name for each in inputs]:
            raise ConfigError(
                f"{file}: shapes names the input {name!r}; {did_you_mean(name, (each.name for each in inputs))}"
            )
    symbols: dict[str, int] = {}
    for each in inputs:
        for dim, size in zip(each.type.tensor_type.shape.dim, given.get(each.name, ()), strict=False):
            if dim.dim_param:
                symbols[dim.dim_param] = size
    return tuple(_input(file, each, given.get(each.name), symbols) for each in inputs)


def _input(
    file: Path, info: onnx.ValueInfoProto, given: tuple[int, ...] | None, symbols: Mapping[str, int]
) -> OnnxTensor:
    kind = info.type.tensor_type
    if kind.elem_type not in TORCH_TYPES:
        received = info.type.WhichOneof("value") if not kind.elem_type else TensorProto.DataType.Name(kind.elem_type)
        raise ConfigError(f"{file}: the input {info.name!r} is of type {received}, expected a tensor of numbers")
    if not kind.HasField("shape") and given is None:
        raise ConfigError(f"{file}: the input {info.name!r} has no shape: give shapes={{{info.name!r}: [...]}}")
    if given is not None and kind.HasField("shape"):
        declared = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        fits = len(declared) == len(given) and all(
            size is None or size == wanted for size, wanted in zip(declared, given, strict=True)
        )
        if not fits:
            text = [dim.dim_param or dim.dim_value or "?" for dim in kind.shape.dim]
            raise ConfigError(f"{file}: shapes gives {list(given)} for the input {info.name!r}, which has {text}")
    if given is not None:
        return OnnxTensor(info.name, given, TORCH_TYPES[kind.elem_type])
    sizes = []
    for axis, dim in enumerate(kind.shape.dim):
        size = dim.dim_value or symbols.get(dim.dim_param) or (1 if axis == 0 else None)
        if size is None:
            text = [each.dim_param or each.dim_value or "?" for each in kind.shape.dim]
            raise ConfigError(
                f"{file}: dimension {axis} ({dim.dim_param or 'no name'}) of the input {info.name!r} {text} is "
                f"dynamic: give its size with shapes={{{info.name!r}: [...]}}"
            )
        sizes.append(int(size))
    return OnnxTensor(info.name, tuple(sizes), TORCH_TYPES[kind.elem_type])


def _strip_pairs(graph: onnx.GraphProto) -> int:
    """Let the readers of each dequantized activation read the activation itself."""
    written = {name: node for node in graph.node for name in node.output}
    constants = {each.name for each in graph.initializer}
    for node in graph.node:  # an input may be stored through Constant or Identity nodes
        if all(not name or name in constants for name in node.input):
            constants.update(node.output)
    outputs = {each.name for each in graph.output}
    source: dict[str, str] = {}
    pairs = [
        (written[node.input[0]], node)
        for node in graph.node
        if node.op_type == _DEQUANTIZE
        and node.input[0] not in constants
        and node.input[0] in written
        and written[node.input[0]].op_type == _QUANTIZE
    ]
    for quantize, dequantize in pairs:
        source[dequantize.output[0]] = quantize.input[0]
    _read_roots(graph, source)
    for name in outputs & source.keys():  # the name of an output stays
        node = written[name]
        node.CopyFrom(onnx.helper.make_node("Identity", [_root(source, name)], [name], name=node.name))
    _remove(graph, [place for place, node in enumerate(graph.node) if node.output[0] in source.keys() - outputs])
    read = set(read_in(graph))
    quantizers = [place for place, node in enumerate(graph.node) if node.op_type == _QUANTIZE]
    _remove(graph, [place for place in quantizers if not read.intersection(graph.node[place].output)])
    return len(pairs)


def _remove(graph: onnx.GraphProto, places: Sequence[int]) -> None:
    for place in reversed(places):
        del graph.node[place]


def _read_roots(graph: onnx.GraphProto, source: Mapping[str, str]) -> None:
    """Let every node read the activation in place of its dequantized codes, in branches, too."""
    for node in graph.node:
        node.input[:] = [_root(source, name) for name in node.input]
        for branch in branches_of(node):
            _read_roots(branch, source)
            for each in branch.output:
                each.name = _root(source, each.name)


def _root(source: Mapping[str, str], name: str) -> str:
    while name in source:
        name = source[name]
    return name
