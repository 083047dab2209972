"""Half precision in ONNX files, for the whole network or for some layers among integer ones."""

import copy
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import fx

from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.edits import with_shapes, without_unused
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.onnx_graph import QDQ_OPERATORS
from depth_distill.export.onnx_io.qdq import export_qdq

_SETTINGS = {"Resize": 1, "Upsample": 1, "Pad": 1}  # position of the first input that is a setting with a fixed type


def export_half(float_onnx: Path, path: Path) -> Path:
    """Write a float file with weights and arithmetic in FP16; input and outputs keep their types.

    Args:
        float_onnx: file from ``export_float``.
        path: path of the new file, which is written completely or not at all.
    """
    model = onnx.load(float_onnx)
    with atomic_path(path) as temporary:
        onnx.save(in_half(model, {node.name for node in model.graph.node if node.op_type != "Cast"}), temporary)
    return path


def export_mixed(mixed: fx.GraphModule, layers: Collection[str], path: Path, spec: FileSpec) -> Path:
    """Write a network with some layers in FP16 and the rest as QDQ.

    Args:
        mixed: network from :func:`~depth_distill.quantization.analysis.mixed_precision.mixed_network`.
        layers: layers of the network in FP16. Operators on their outputs before the next quantizer, such as additions
            and activations, are in FP16 as well.
        path: path of the new file, which is written completely or not at all.
        spec: input, outputs and opset.

    Raises:
        ConfigError: the file has no such layer, or see ``export_qdq``.
    """
    with atomic_path(path) as temporary:
        export_qdq(mixed, temporary, spec)
        model = onnx.load(temporary)
        onnx.save(in_half(model, float_region(model, layers)), temporary)
    return path


def float_region(model: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """Names of the nodes of some layers, and of all nodes on their outputs before the next QuantizeLinear.

    Raises:
        ConfigError: the model has no such layer.
    """
    nodes = {node.name for node in model.graph.node}
    for layer in layers:
        if layer not in nodes:
            raise ConfigError(f"the file has no layer {layer!r}")
    region = set(layers)
    written = {name for node in model.graph.node if node.name in region for name in node.output}
    for node in model.graph.node:
        if node.op_type not in QDQ_OPERATORS and written.intersection(node.input):
            region.add(node.name)
            written.update(node.output)
    return region


def in_half(model: onnx.ModelProto, region: Collection[str]) -> onnx.ModelProto:
    """A copy in which the nodes of a region compute in FP16, with Casts at its border.

    ONNX Runtime's own converter also puts Casts around every node outside the region.

    Args:
        model: float32 or QDQ model with named nodes.
        region: names of the nodes in FP16.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    stored = {each.name: each for each in graph.initializer}
    floats = {each.name for each in graph.initializer if each.data_type == TensorProto.FLOAT}
    inside = {name for node in graph.node if node.name in region for name in node.output}
    outputs = {each.name for each in graph.output}
    nodes: list[onnx.NodeProto] = []
    halves: set[str] = set()
    for node in graph.node:
        changed = list(node.input)
        if node.name in region:
            for position, name in enumerate(node.input):
                if not name or position >= _SETTINGS.get(node.op_type, len(node.input)) or name in inside:
                    continue
                if name in stored and name not in floats:
                    continue  # indices and shapes
                half = f"{name}.half"
                if half not in halves:
                    halves.add(half)
                    if name in stored:
                        values = numpy_helper.to_array(stored[name]).astype(np.float16)
                        graph.initializer.append(numpy_helper.from_array(values, half))
                    else:
                        nodes.append(helper.make_node("Cast", [name], [half], half, to=TensorProto.FLOAT16))
                changed[position] = half
            # Only tensors that are read outside the region, or are outputs, are cast back, and keep their names.
            changed = [f"{name}.inside" if name in inside else name for name in changed]
            outer = list(node.output)
            node.output[:] = [f"{name}.inside" for name in outer]
            node.input[:] = changed
            nodes.append(node)
            for name in outer:
                readers = [each for each in graph.node if name in each.input and each.name not in region]
                if readers or name in outputs:
                    cast = helper.make_node("Cast", [f"{name}.inside"], [name], f"{name}.float", to=TensorProto.FLOAT)
                    nodes.append(cast)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return with_shapes(without_unused(model))
