"""ONNX files as graphs that passes can edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import fx

import depth_distill.loading.onnx_importer.operators  # noqa: F401  (registers every operator)
from depth_distill.errors import ConfigError
from depth_distill.loading.onnx_importer.builder import GraphBuilder
from depth_distill.loading.onnx_importer.nodes import nodes_of
from depth_distill.loading.onnx_importer.patterns import Patterns
from depth_distill.loading.onnx_importer.reading import OnnxTensor, input_tensors, plain, read_model
from depth_distill.loading.onnx_importer.verification import takes_any_batch
from depth_distill.loading.onnx_importer.verification import verify as compare


@dataclass(frozen=True)
class ImportedOnnx:
    """A file as a graph.

    Attributes:
        graph: the network; it takes the inputs of the file in order and returns one tensor, or a tuple of all outputs.
            Its layers are what :func:`~depth_distill.quantization.graph.trace.trace` gives for a network written in
            PyTorch.
        inputs: the inputs of the file.
        outputs: the outputs of the file.
        model: the file as it was read.
        layers: name of the file's node by path of the module that it became; a nameless node is called by the first
            tensor that it writes.
        written: tensor of the file that this node writes, by path of the module.
        tensors: tensor of the file by name of the graph's node that computes it.
        deviation: largest difference of an output from ONNX Runtime, relative to its largest value; NaN if the file was
            not verified.
        any_batch: whether the graph takes batches larger than the file's.
        stripped_pairs: number of Q/DQ pairs of activations that are left out.
        file: where it was read.
    """

    graph: fx.GraphModule
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    model: onnx.ModelProto
    layers: Mapping[str, str]
    written: Mapping[str, str]
    tensors: Mapping[str, str]
    deviation: float
    any_batch: bool
    stripped_pairs: int
    file: Path


def import_onnx(
    file: Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    verify: bool = True,
    quantization: Literal["strip"] = "strip",
) -> ImportedOnnx:
    """Read an ONNX file of opset 9 to 21 as the graph that ``trace`` gives for the same network in PyTorch.

    Shapes are fixed: a dynamic batch is 1, though the graph takes any batch wherever its operators allow it. Nodes that
    do not depend on an input are computed, patterns such as ``x * sigmoid(x)`` are put together, and weights in Q/DQ
    form become float.

    Args:
        file: the file; weights may lie in files beside it.
        shapes: the full shape of every input with dynamic dimensions other than the batch, by name.
        verify: whether to compare every output with ONNX Runtime, on random inputs of two seeds.
        quantization: what to do with Q/DQ pairs of activations: ``"strip"`` leaves them out.

    Raises:
        ConfigError: the file is no ONNX, a dimension is unknown, an operator cannot be imported, or an output differs
            from ONNX Runtime by more than 1e-4 of its largest value; the message names the node.
    """
    if quantization != "strip":
        raise ConfigError(f"quantization: received {quantization!r}, expected 'strip'")
    file = Path(file)
    model = read_model(file)
    working, pairs = plain(model)
    inputs = input_tensors(file, working, shapes)
    names = [each.name for each in working.graph.output]
    builder = GraphBuilder(file, working)
    nodes = builder.without_constants(nodes_of(working.graph.node))
    nodes = Patterns(nodes, builder.constants, names).put_together()
    for each in inputs:
        builder.add_input(each.name, each.shape, each.dtype, bool(each.shape) and each.shape[:1] == inputs[0].shape[:1])
    builder.convert(nodes)
    for name in names:
        if name not in builder.tensors and name not in builder.constants:
            raise ConfigError(f"{file}: the output {name!r} is an optional one that cannot be imported")
    graph = builder.finish(names)
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    deviation = float("nan")
    if verify:
        deviation = compare(file, working, graph, inputs, builder.tensors, nodes)
    return ImportedOnnx(
        graph,
        inputs,
        tuple(_output(builder, name) for name in names),
        model,
        {path: name for path, name in builder.layers.items() if path in called},
        {path: name for path, name in builder.written.items() if path in called},
        {node.name: name for name, node in reversed(builder.tensors.items())},
        deviation,
        takes_any_batch(graph, inputs),
        pairs,
        file,
    )


def _output(builder: GraphBuilder, name: str) -> OnnxTensor:
    if name in builder.tensors:
        node = builder.tensors[name]
        return OnnxTensor(name, builder.shape(node), builder.dtype(node))
    value = builder.constants[name]
    return OnnxTensor(name, value.shape, torch.from_numpy(value).dtype)
