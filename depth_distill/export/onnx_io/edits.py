"""Edits of ONNX models: each returns a new model and leaves its argument unchanged."""

import ast
import copy
import math
import re
from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference, version_converter

from depth_distill.errors import ConfigError, first_line
from depth_distill.export.onnx_io.opsets.lowering import lower, oldest_ir_version
from depth_distill.loading.onnx_importer.files import free_name, opset_of

_SCOPES = "pkg.torch.onnx.name_scopes"
_CONVENTION = {  # of a Resize, with ONNX's defaults
    "mode": b"nearest",
    "coordinate_transformation_mode": b"half_pixel",
    "nearest_mode": b"round_prefer_floor",
}
_ASYMMETRIC = (b"nearest", b"asymmetric", b"floor")
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow")
# With an integer factor f, the centre of pixel i maps to (i + 0.5) / f - 0.5, which is never half-way between two.
_SAME_PIXELS = [
    (b"nearest", coordinates, rounding)
    for coordinates in (b"half_pixel", b"pytorch_half_pixel", b"half_pixel_symmetric")
    for rounding in (b"round_prefer_floor", b"round_prefer_ceil")
]


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the exporter's metadata (stack traces with local paths), except for the scopes, which name the layers."""
    model = copy.deepcopy(model)
    for owner in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        for entry in [each for each in owner.metadata_props if each.key != _SCOPES]:
            owner.metadata_props.remove(entry)
    return model


def name_by_layer(model: onnx.ModelProto, layers: Collection[str], parameters: Collection[str]) -> onnx.ModelProto:
    """Name nodes, tensors and constants after the layers they come from.

    A node has the same name as its site in :func:`~depth_distill.quantization.simulate.fake_quantize.placement`: the
    path of its layer, or of the enclosing module with the operator (``decoder.blocks.0.cat``). If a layer has several
    nodes, the last one has the plain name. The output tensor of a node has the node's name; inputs and outputs of the
    graph, and parameters, keep their names; a constant is named after the node that reads it and its role there.

    Args:
        model: model from torch's exporter, with its scopes.
        layers: paths of the modules that count as one layer, such as the leaf modules of the network.
        parameters: names of the initializers that are parameters of the network.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    # Names of parameters take precedence over new names of tensors.
    taken = {each.name for each in (*graph.input, *graph.output)} | set(parameters)
    kept = set(taken)
    names: dict[str, str] = {}
    for node in reversed(graph.node):
        wanted = _layer_of(node, layers)
        if wanted in taken and wanted in layers:
            wanted = f"{wanted}.{node.op_type.lower()}"
        node.name = free_name(wanted, taken)
        taken.add(node.name)
        for position, output in enumerate(node.output):
            if output and output not in kept:
                names[output] = node.name if position == 0 else f"{node.name}.{position}"
    constants = {each.name for each in graph.initializer} - set(parameters)
    for node, name, role in _inputs(graph):
        if name in constants and name not in names:
            names[name] = free_name(f"{node.name}.{role}", taken)
            taken.add(names[name])
    _rename(graph, names)
    return model


def take_uint8(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Make the input ``name`` uint8, followed by a Cast to float32."""
    model = copy.deepcopy(model)
    (image,) = (each for each in model.graph.input if each.name == name)
    image.type.tensor_type.elem_type = TensorProto.UINT8
    as_float = f"{name}.float"
    for node in model.graph.node:
        node.input[:] = [as_float if each == name else each for each in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Cast", [name], [as_float], as_float, to=TensorProto.FLOAT))
    return model


def resize_by_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every Resize by powers of two constant scales, because NPU tool chains do not support ``sizes``.

    Nearest-neighbour upsampling is also converted to the convention that all of them support, ``asymmetric``
    coordinates rounded down, if that selects the same pixels, as for half-pixel centres rounded to the nearest and an
    integer factor. Other factors are left unchanged; the operator check reports them for targets that do not support
    them.

    Raises:
        ConfigError: the shape of a tensor is not static.
    """
    model = with_shapes(model)
    shapes = _shapes(model)
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Resize":
            continue
        before, after = shapes[node.input[0]], shapes[node.output[0]]
        scales = np.asarray(after, np.float32) / np.asarray(before, np.float32)
        if not all(math.log2(scale).is_integer() for scale in scales):
            continue
        if len(node.input) < 3 or not np.array_equal(stored.get(node.input[2], ()), scales):
            constant = f"{node.name}.scales"
            model.graph.initializer.append(numpy_helper.from_array(scales, constant))
            node.input[:] = [node.input[0], "", constant]
            for attribute in [each for each in node.attribute if each.name in ("axes", "keep_aspect_ratio_policy")]:
                node.attribute.remove(attribute)  # they apply to sizes, or to scales of some axes only
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        convention = tuple(attributes.get(key, default) for key, default in _CONVENTION.items())
        if scales.min() >= 1 and convention in _SAME_PIXELS:
            kept = [each for each in node.attribute if each.name not in _CONVENTION]
            del node.attribute[:]
            node.attribute.extend(kept)
            for key, value in zip(_CONVENTION, _ASYMMETRIC, strict=True):
                node.attribute.append(onnx.helper.make_attribute(key, value))
    return without_unused(model)


def constants_of_four_axes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the constant operand of an elementwise operator on images four axes, because some NPUs broadcast no others.

    A scalar becomes ``(1, 1, 1, 1)``, and ``(C, 1, 1)`` becomes ``(1, C, 1, 1)``: the numbers stay.
    """
    model = with_shapes(model)
    shapes, graph = _shapes(model), model.graph
    stored = {each.name: each for each in graph.initializer}
    made: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in _ELEMENTWISE or not any(len(shapes.get(name, ())) == 4 for name in node.input):
            continue
        for position, name in enumerate(node.input):
            if name not in stored or len(stored[name].dims) >= 4:
                continue
            if name not in made:
                made[name] = f"{name}.4d"
                values = numpy_helper.to_array(stored[name])
                shape = (1,) * (4 - values.ndim) + values.shape
                graph.initializer.append(numpy_helper.from_array(values.reshape(shape), made[name]))
            node.input[position] = made[name]
    return without_unused(model)


def to_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Convert a model to another version of the ONNX operator set, 9 or newer.

    Raises:
        OpsetError: an older version cannot express an operator.
        ConfigError: an operator cannot be converted to a newer version.
    """
    found = opset_of(model)
    if opset < found:
        return lower(model, opset)
    if opset > found:
        try:
            model = version_converter.convert_version(model, opset)
        except Exception as error:  # the converter's C++ code raises RuntimeError or its own type
            raise ConfigError(f"opset {opset} cannot express this network: {first_line(error)}") from error
        # Use the oldest IR version that supports this opset: old runtimes reject newer ones.
        model.ir_version = oldest_ir_version(model)
        if opset_of(model) != opset:
            raise ConfigError(f"opset: requested {opset}, but the converter wrote {opset_of(model)}")
    return model


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the inferred shape of every tensor, fully checked.

    Raises:
        ConfigError: the shape of a tensor is not static; the message names the node that writes it.
    """
    model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    shapes = _shapes(model)
    for node in model.graph.node:
        for name in node.output:
            if name and (name not in shapes or not all(shapes[name])):
                raise ConfigError(f"{node.name} ({node.op_type}): the shape of {name} is not static")
    return model


def with_own_zero_points(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no two stored weights share their zero point.

    Where ONNX Runtime turns int8 weights into uint8 (see ``session_options``), it turns each zero point once for every
    weight, and fails at the second.
    """
    model = copy.deepcopy(model)
    stored = {each.name: each for each in model.graph.initializer}
    names = {*stored, *(name for node in model.graph.node for name in (*node.input, *node.output))}
    taken: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3 or node.input[0] not in stored:
            continue
        name = node.input[2]
        if name in taken and name in stored:
            own = copy.deepcopy(stored[name])
            own.name = free_name(f"{node.input[0]}.zero_point", names)
            names.add(own.name)
            model.graph.initializer.append(own)
            node.input[2] = own.name
        taken.add(name)
    return model


def without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the initializers that no node reads."""
    model = copy.deepcopy(model)
    used = {name for node in model.graph.node for name in node.input} | {each.name for each in model.graph.output}
    for tensor in [each for each in model.graph.initializer if each.name not in used]:
        model.graph.initializer.remove(tensor)
    return model


def _layer_of(node: onnx.NodeProto, layers: Collection[str]) -> str:
    scopes = [each.value for each in node.metadata_props if each.key == _SCOPES]
    if not scopes:
        return node.op_type.lower()
    *modules, operator = [str(each) for each in ast.literal_eval(scopes[0])]
    module = next((each for each in reversed(modules) if each), "")
    if module in layers:
        return module
    operator = re.sub(r"_\d+$", "", operator)  # the exporter's call counter
    return f"{module}.{operator}" if module else operator


def _inputs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    """Node, tensor name and role (name of the formal parameter) of every input of every node."""
    for node in graph.node:
        formal = onnx.defs.get_schema(node.op_type, domain=node.domain).inputs
        for position, name in enumerate(node.input):
            if name:
                yield node, name, formal[min(position, len(formal) - 1)].name


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]
        node.output[:] = [names.get(each, each) for each in node.output]
    for owner in (*graph.value_info, *graph.initializer):
        owner.name = names.get(owner.name, owner.name)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = model.graph
    return {
        each.name: tuple(dim.dim_value for dim in each.type.tensor_type.shape.dim)
        for each in (*graph.input, *graph.output, *graph.value_info)
    }
