"""The layers of an ONNX file and their outputs, under names that a float file and its QDQ file share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from depth_distill.export.onnx_io.quant_params import QuantParams

INPUT = "Input"
"""Operator name of the layers that represent a graph's inputs."""

_FORM_CHANGES = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"})  # same values in another form
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})  # every tool chain fuses them into the previous layer
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_CODES = frozenset({TensorProto.INT8, TensorProto.UINT8})


@dataclass(frozen=True)
class OnnxLayer:
    """A layer of an ONNX file: a node that computes something, or an input of the graph.

    Attributes:
        name: name of the node, which ``export_float`` and ``export_qdq`` take from the network; name of the output
            tensor if the node has no name.
        op: ONNX operator, or ``INPUT``.
        output: name of the tensor that the node writes.
        tensor: name of the tensor that later layers read: the output of the Q/DQ pair if there is one.
        quant_params: quantization parameters of that pair; for an integer input, those of its own dtype with scale 1.
            None without a pair, or if it has one scale per channel.
        activation: output of the activation that is the only reader of this unquantized output, if any: tool chains
            fuse the two, so that only the activation's output exists on a device.
    """

    name: str
    op: str
    output: str
    tensor: str
    quant_params: QuantParams | None
    activation: str | None

    @property
    def step(self) -> float | None:
        """Quantization step of the tensor."""
        return None if self.quant_params is None else self.quant_params.scale


def layers_of(model: onnx.ModelProto) -> list[OnnxLayer]:
    """The layers of a model in graph order, inputs first.

    Nodes that only depend on constants, or only change the form of values (Q/DQ, Cast), are not layers.
    """
    graph = shape_inference.infer_shapes(model).graph
    stored = {each.name: each for each in graph.initializer}
    types = {each.name: each.type.tensor_type.elem_type for each in (*graph.value_info, *graph.output, *graph.input)}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    inputs = [each.name for each in graph.input if each.name not in stored]
    layers = [OnnxLayer(name, INPUT, name, *_tensor_read(name, readers, stored, types), None) for name in inputs]
    live = set(inputs)
    for node in graph.node:
        if not live.intersection(node.input):
            continue
        live.update(node.output)
        if node.op_type in _FORM_CHANGES:
            continue
        for output in node.output:
            if types.get(output) not in _FLOATS:
                continue  # shapes and indices
            tensor, quant_params = _tensor_read(output, readers, stored, types)
            after = readers.get(output, [])
            fused = tensor == output and len(after) == 1 and after[0].op_type in _ACTIVATIONS
            activation = after[0].output[0] if fused else None
            layers.append(OnnxLayer(node.name or output, node.op_type, output, tensor, quant_params, activation))
    return _with_unique_names(layers)


def match_layers(reference: Sequence[OnnxLayer], other: Sequence[OnnxLayer]) -> list[tuple[OnnxLayer, OnnxLayer]]:
    """Pairs of layers that both files have, in the order of ``other``, matched by name or else by output tensor.

    Layers that are fused into an activation in ``other`` are left out. If the activation was absorbed into a layer of
    ``other``, as by the lower end of a quantized range, that layer is paired with the activation of the reference.
    """
    by_name = {layer.name: layer for layer in reference}
    by_output = {layer.output: layer for layer in reference}
    names = {layer.name for layer in other} | {layer.output for layer in other}
    pairs = []
    for layer in other:
        same = by_name.get(layer.name) or by_output.get(layer.output)
        if same is None or layer.activation is not None:
            continue
        activation = by_output.get(same.activation or "")
        if activation is not None and not {activation.name, activation.output} & names:
            same = activation
        pairs.append((same, layer))
    return pairs


def _tensor_read(
    output: str,
    readers: Mapping[str, list[onnx.NodeProto]],
    stored: Mapping[str, TensorProto],
    types: Mapping[str, int],
) -> tuple[str, QuantParams | None]:
    """The tensor that later layers read in place of ``output``, and its quantization parameters."""
    name = output
    while True:
        after = readers.get(name, [])
        for node in after:
            if node.op_type == "QuantizeLinear":
                pair = [each for each in readers.get(node.output[0], []) if each.op_type == "DequantizeLinear"]
                if pair:
                    return pair[0].output[0], _quant_params(node, stored)
        forms = [node for node in after if node.op_type in ("Cast", "Identity")]
        if not forms:
            break
        name = forms[0].output[0]
    kind = types.get(output)
    identity = QuantParams(1.0, 0, str(helper.tensor_dtype_to_np_dtype(kind))) if kind in _CODES else None
    return output, identity


def _quant_params(quantize: onnx.NodeProto, stored: Mapping[str, TensorProto]) -> QuantParams | None:
    if not all(name in stored for name in quantize.input[1:] if name):
        return None  # scale or zero point is computed
    scale = numpy_helper.to_array(stored[quantize.input[1]])
    zero_point = np.zeros(1, np.uint8)  # ONNX's default
    if len(quantize.input) > 2 and quantize.input[2]:
        zero_point = numpy_helper.to_array(stored[quantize.input[2]])
    if scale.size != 1 or zero_point.size != 1:
        return None
    return QuantParams(float(scale.item()), int(zero_point.item()), str(zero_point.dtype))


def _with_unique_names(layers: Sequence[OnnxLayer]) -> list[OnnxLayer]:
    seen: Counter[str] = Counter()
    named = []
    for layer in layers:
        count = seen[layer.name]
        seen[layer.name] += 1
        named.append(replace(layer, name=f"{layer.name}_{count}") if count else layer)
    return named
