"""The layers of an ONNX file and what each puts out, under names that a float file and its QDQ file share."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference

from depth_distill.errors import ConfigError

INPUT = "Input"
"""Operator of the layers that stand for a graph's inputs."""

_SCOPES = "pkg.torch.onnx.name_scopes"
_PASSED_ON = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"})  # the same values in another form
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})  # what every tool chain fuses into what is before
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})


@dataclass(frozen=True)
class Codes:
    """The integers that stand for a layer's output, or arrive as an input.

    Attributes:
        tensor: name of the integer tensor.
        scale: of one step.
        zero_point: code of 0.
        dtype: int8 or uint8.
    """

    tensor: str
    scale: float
    zero_point: int
    dtype: np.dtype

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """float32 values of codes."""
        return (codes.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True)
class Layer:
    """A node that computes, or an input.

    Attributes:
        name: path of the module, with the operator where the module holds more than it; the name of the tensor in
            files without scopes.
        op: ONNX operator.
        output: name of the tensor that the node writes.
        tensor: name of the tensor that later layers read: behind the Q/DQ pair where there is one.
        codes: of the Q/DQ pair; None without.
        key: what names the same layer in another file; None in files without scopes.
        activation: output of the activation that alone reads this layer, unquantized: a tool chain fuses the two, and
            nothing but that activation's output exists on a device.
    """

    name: str
    op: str
    output: str
    tensor: str
    codes: Codes | None
    key: tuple[str, str, int] | None
    activation: str | None


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """The layers of a file, in the order of its graph, inputs first.

    Nodes that work on constants only, and those that only change the form (Q/DQ, Cast), are no layers.
    """
    graph = shape_inference.infer_shapes(model).graph
    stored = {each.name: each for each in graph.initializer}
    types = {each.name: each.type.tensor_type.elem_type for each in (*graph.value_info, *graph.output, *graph.input)}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    layers = [
        Layer(each.name, INPUT, each.name, *_read_as(each.name, readers, stored, types), ("", INPUT, position), None)
        for position, each in enumerate(each for each in graph.input if each.name not in stored)
    ]
    live = {layer.output for layer in layers}
    computing = []
    for node in graph.node:
        if live.intersection(node.input):
            live.update(node.output)
            if node.op_type not in _PASSED_ON:
                computing.append(node)
    containers = {scope for node in computing for scope in _scopes(node)[:-2]}
    counts: Counter[tuple[str, str]] = Counter()
    for node in computing:
        scopes = _scopes(node)
        path = scopes[-2] if len(scopes) > 1 else ""
        for output in node.output:
            key = (path, node.op_type, counts[path, node.op_type])
            counts[path, node.op_type] += 1
            if types.get(output) not in _FLOATS:
                continue  # shapes and indices
            tensor, codes = _read_as(output, readers, stored, types)
            after = readers.get(output, [])
            fused = codes is None and len(after) == 1 and after[0].op_type in _ACTIVATIONS
            layers.append(
                Layer(
                    _name(scopes, containers) if scopes else output,
                    node.op_type,
                    output,
                    tensor,
                    codes,
                    key if scopes else None,
                    after[0].output[0] if fused else None,
                )
            )
    return _with_unique_names(layers)


def matched(reference: Sequence[Layer], other: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """The layers that both files have, in the order of ``other``; by scope, or by tensor name where there is none.

    What is fused into an activation in ``other`` is left out. A layer of ``other`` that took the activation in, as the
    lower end of a quantized range can, is compared with that activation's output.
    """
    by_key = {layer.key: layer for layer in reference if layer.key is not None}
    by_output = {layer.output: layer for layer in reference}
    names = {layer.key for layer in other} | {layer.output for layer in other}
    pairs = []
    for layer in other:
        same = (by_key.get(layer.key) if layer.key else None) or by_output.get(layer.output)
        if same is None or layer.activation is not None:
            continue
        activation = by_output.get(same.activation or "")
        if activation is not None and not {activation.key, activation.output} & names:
            same = activation
        pairs.append((same, layer))
    return pairs


class LayerRunner:
    """Runs a file on ONNX Runtime as it is written, without optimization, and gives what its layers put out.

    Args:
        path: ONNX file with one input and a static batch of 1.
        layers: whose outputs to give; none gives nothing but the outputs of the file.

    Raises:
        ConfigError: no such file, or one that ONNX Runtime refuses.
    """

    def __init__(self, path: Path, layers: Iterable[Layer] = ()) -> None:
        self.path = path
        self.layers = tuple(layers)
        model = load(path)
        self.output_names = [each.name for each in model.graph.output]
        given = {each.name for each in (*model.graph.output, *model.graph.input)}
        for name in dict.fromkeys(layer.tensor for layer in self.layers):
            if name not in given:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self.session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class
            raise ConfigError(f"ONNX Runtime cannot load {path}: {error}") from error
        self.input = self.session.get_inputs()[0]
        self._fetched = [each.name for each in self.session.get_outputs()]

    def layer_outputs(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the layers by layer name, float32, for one input ``(1, ...)`` of the file's input dtype."""
        tensors = self._run(value)
        return {layer.name: tensors[layer.tensor] for layer in self.layers}

    def outputs(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the file by name, float32, ``(N, ...)``, for inputs ``(N, ...)`` run one by one."""
        runs = [self._run(value[None]) for value in values]
        return {name: np.concatenate([run[name] for run in runs]) for name in self.output_names}

    def _run(self, value: np.ndarray) -> Mapping[str, np.ndarray]:
        try:
            results = self.session.run(self._fetched, {self.input.name: value})
        except Exception as error:
            raise ConfigError(
                f"{self.path} takes {self.input.type} of the shape {tuple(self.input.shape)}, "
                f"received {value.dtype} of {value.shape}: {error}"
            ) from error
        found = {name: np.asarray(each, np.float32) for name, each in zip(self._fetched, results, strict=True)}
        return {self.input.name: np.asarray(value, np.float32)} | found


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ConfigError: no such file, or no ONNX file.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist")
    try:
        return onnx.load(path)
    except Exception as error:  # of protobuf, whose own base class is private
        raise ConfigError(f"{path} is no ONNX file: {error}") from error


def _read_as(
    output: str,
    readers: Mapping[str, list[onnx.NodeProto]],
    stored: Mapping[str, TensorProto],
    types: Mapping[str, int],
) -> tuple[str, Codes | None]:
    """The tensor that is read in place of ``output``, and the codes between."""
    name = output
    while True:
        after = readers.get(name, [])
        for node in after:
            if node.op_type == "QuantizeLinear":
                pair = [each for each in readers.get(node.output[0], []) if each.op_type == "DequantizeLinear"]
                if pair:
                    return pair[0].output[0], _codes(node, stored)
        forms = [node for node in after if node.op_type in ("Cast", "Identity")]
        if not forms:
            break
        name = forms[0].output[0]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(types[output])) if types.get(output) else np.dtype(np.float32)
    return output, Codes(output, 1.0, 0, dtype) if dtype.kind in "iu" and dtype.itemsize == 1 else None


def _codes(quantize: onnx.NodeProto, stored: Mapping[str, TensorProto]) -> Codes | None:
    parameters = [numpy_helper.to_array(stored[name]) for name in quantize.input[1:] if name in stored]
    if not parameters or any(each.size != 1 for each in parameters):
        return None  # one scale a channel: no single step
    zero_point = parameters[1] if len(parameters) > 1 else np.zeros((), np.uint8)  # ONNX's default
    return Codes(quantize.output[0], float(parameters[0].item()), int(zero_point.item()), zero_point.dtype)


def _scopes(node: onnx.NodeProto) -> list[str]:
    """Paths of the modules around a node, outermost first, and the name of the call."""
    for note in node.metadata_props:
        if note.key == _SCOPES:
            return [str(each) for each in ast.literal_eval(note.value)]
    return []


def _name(scopes: Sequence[str], containers: set[str]) -> str:
    path = scopes[-2] if len(scopes) > 1 else ""
    if path and path not in containers:
        return path
    call = re.sub(r"_\d+$", "", scopes[-1])  # a running number, which shifts with every node before it
    return f"{path}.{call}" if path else call


def _with_unique_names(layers: Sequence[Layer]) -> list[Layer]:
    seen: Counter[str] = Counter()
    named = []
    for layer in layers:
        count = seen[layer.name]
        seen[layer.name] += 1
        named.append(replace(layer, name=f"{layer.name}_{count}") if count else layer)
    return named
