"""Probes of each distinct operator of an ONNX file, as a model of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from depth_distill.errors import ConfigError
from depth_distill.export.check.rules.activations import ACTIVATION_OPERATORS
from depth_distill.export.onnx_io.onnx_graph import OnnxGraph, attributes, operator_of
from depth_distill.export.onnx_io.quant_params import QuantParams
from depth_distill.export.probe.graphs import IMAGE, GraphBuilder
from depth_distill.export.probe.judgement import Probe, Variant
from depth_distill.loading.onnx_importer.files import read_onnx

# FP16 has 11 bits; 1 % leaves room for sums of a thousand rounded products. A wrong operator is off by far more.
_FLOAT_TOLERANCE = 0.01
_SHARE_OFF = 0.02  # of the elements of integer outputs: ties of ArgMax may go either way
# One code if a fixed-point multiplier rounds a value near a tie the other way, one for the bias or the activation.
_CODES_OFF = 2
_FLOATS = ("float32", "float16")
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_VALUES = 256  # of integers that are not indices: bytes span it, and sums of two stay exact in FP16
_POSITIVE_ONLY = ("Log", "Sqrt", "Pow", "Div", "Reciprocal")
_INDEXING = ("Gather", "GatherElements", "ScatterElements")  # along their axis
_SHOWN = ("kernel_shape", "strides", "dilations", "group", "axis", "axes", "mode", "perm", "to", "keepdims")
_DEFAULTS = {"strides": [1, 1], "dilations": [1, 1], "group": 1}


@dataclass(frozen=True)
class OperatorProbe(Probe):
    """Probe of an operator with its attributes and shapes.

    Attributes:
        op: ONNX type of the operator, prefixed with its domain unless it is one of ONNX's own.
        count: number of equal nodes in the file.
        stand_in: whether a constant replaces an input of another shape or type, as probes have one input.
        problem: why it cannot be probed; there are no variants in that case.
    """

    op: str = ""
    count: int = 1
    stand_in: bool = False
    problem: str = ""


def operator_probes(path: Path) -> list[OperatorProbe]:
    """One probe per combination of operator, attributes, shapes and types, in the order of the file.

    The probe of a quantized node includes its Q/DQ pairs, and the activation that is fused into the node, if any.

    Raises:
        ConfigError: the file cannot be read, or the shape of an input is not fixed.
    """
    network = _Network(read_onnx(path))
    for name in network.inputs:
        if network.static_shape(name) is None:
            raise ConfigError(f"{path}: the shape of {name} is not fixed; export it with a static batch of 1")
    subgraphs: dict[str, _Subgraph] = {}
    counts: dict[str, int] = {}
    for node in network.operators():
        subgraph = _Subgraph(network, node)
        counts[subgraph.key] = counts.get(subgraph.key, 0) + 1
        subgraphs.setdefault(subgraph.key, subgraph)
    return [subgraph.probe(counts[key]) for key, subgraph in subgraphs.items()]


class _Network(OnnxGraph):
    """A graph with the writer and the readers of each tensor, including Q/DQ nodes."""

    @cached_property
    def writers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output}

    def reading(self, name: str) -> list[onnx.NodeProto]:
        return self._readers.get(name, [])


class _Subgraph:
    """A node with its Q/DQ pairs and its activation.

    Its model has one input: the node's first float operand, or its first operand if none is float. Operands of the same
    shape and type are further parts of the input, because equal operands would hide errors (a - a is 0 for any a). All
    other operands are constants.
    """

    def __init__(self, network: _Network, node: onnx.NodeProto) -> None:
        self.network, self.node = network, node
        self.dynamic = [name for name in dict.fromkeys(node.input) if name and name not in network.constants]
        self.shapes = {name: network.static_shape(name) or () for name in self.dynamic}
        self.kinds = {name: network.dtype(name) or "float32" for name in self.dynamic}
        self.quant_params = {name: self._params_of(name) for name in self.dynamic}
        floats = [name for name in self.dynamic if self.kinds[name] in _FLOATS]
        first = (floats or self.dynamic or [""])[0]
        self.shape, self.dtype = self.shapes.get(first, ()), self.kinds.get(first, "float32")
        self.input_parts = [name for name in self.dynamic if self._is_like(name, first)]
        self.axis = min(1, len(self.shape) - 1)  # along which operands are concatenated in the input: 0 is the batch
        self.output_kinds = [network.dtype(name) or self.dtype for name in node.output if name]
        self.activation, self.output_params = self._following()
        self.quantized = (
            bool(floats) and self.output_params is not None and all(self.quant_params[name] for name in floats)
        )
        self.problem = self._problem()

    @property
    def key(self) -> str:
        """Equal for nodes that share a probe."""
        constants = self.network.constants
        operands = [
            constants[name].shape if name in constants else name and self.dynamic.index(name)
            for name in self.node.input
        ]
        following = self.activation.op_type if self.activation is not None and self.quantized else ""
        found = sorted(attributes(self.node).items(), key=str)
        types = (list(self.shapes.values()), list(self.kinds.values()), self.output_kinds)
        return str((operator_of(self.node), found, operands, types, following, self.quantized, bool(self.problem)))

    def probe(self, count: int) -> OperatorProbe:
        """The probe, with Q/DQ pairs if the node has them, and in the file's float type."""
        title = operator_of(self.node)
        if self.problem:
            return OperatorProbe(self._label(), np.empty(0), (), "", title, count, problem=self.problem)
        rng = np.random.default_rng(0)
        values = {name: self._values(name, rng) for name in self.dynamic}
        inputs = (
            np.concatenate([values[name] for name in self.input_parts], self.axis)
            if self.shape
            else values[self.input_parts[0]]
        )
        if self.dtype == "float16":
            inputs = inputs.astype(np.float32)
        ways = {"between Q/DQ pairs": True, "in float": False} if self.quantized else {"": False}
        try:
            variants = tuple(self._variant(each, quantized, inputs, values) for each, quantized in ways.items())
        except onnx.shape_inference.InferenceError as error:
            problem = f"it cannot be extracted: {error}"
            return OperatorProbe(self._label(), np.empty(0), (), "", title, count, problem=problem)
        stand_in = len(self.input_parts) < len(self.dynamic)
        return OperatorProbe(self._label(), inputs, variants, "", title, count, stand_in)

    def _problem(self) -> str:
        """Why the node cannot be probed; empty if it can."""
        if not self.dynamic:
            return "it only reads constants, but its value is not known"
        for name in self.dynamic:
            if self.network.static_shape(name) is None:
                return f"the shape of its input {name} is not known"
        for kind in (*self.kinds.values(), *self.output_kinds):
            if kind not in (*_FLOATS, *_INTEGERS, "bool"):
                return f"{kind} cannot be probed"
        return ""

    def _is_like(self, name: str, first: str) -> bool:
        same = (self.shapes[name], self.kinds[name]) == (self.shape, self.dtype)
        return name == first or (same and self.shape != ())  # scalars cannot be concatenated

    def _values(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """Random values that the tensor's codes or else FP16 represent exactly, so data movement has no error."""
        shape, kind, quant_params = self.shapes[name], self.kinds[name], self.quant_params[name]
        if kind == "bool":
            return rng.random(shape) < 0.5
        if kind not in _FLOATS:
            return rng.integers(0, min(self._integers(), np.iinfo(kind).max + 1), shape).astype(kind)
        step = 0.1
        if self.quantized and quant_params is not None:
            limits, step = np.iinfo(quant_params.dtype), quant_params.scale
            values = (rng.integers(limits.min, limits.max, shape, endpoint=True) - quant_params.zero_point) * step
        else:
            values = rng.standard_normal(shape)
        if self.node.op_type in _POSITIVE_ONLY:
            values = np.abs(values) + step
        return values.astype(np.float32 if self.quantized else np.float16).astype(kind)

    def _integers(self) -> int:
        """Exclusive upper bound of random integers; indices stay within the axis that they index."""
        constants = self.network.constants
        if self.node.op_type in _INDEXING:
            data = self.node.input[0]
            shape = constants[data].shape if data in constants else self.shapes[data]
            return int(shape[attributes(self.node).get("axis", 0)])
        sizes = [size for name in self.node.input if name in constants for size in constants[name].shape]
        return min((size for size in sizes if size > 1), default=_VALUES)

    def _variant(self, title: str, quantized: bool, inputs: np.ndarray, values: Mapping[str, np.ndarray]) -> Variant:
        graph = self._graph()
        names = self._parts(graph, quantized)
        for name in self.dynamic:
            if name not in names:
                names[name] = self._qdq(graph, name, graph.constant(values[name]), quantized)
        for name in self.node.input:
            if name and name not in names:
                names[name] = self._constant(graph, name, quantized)
        outputs = graph.copy_node(self.node, [names.get(name, "") for name in self.node.input])
        kinds = self.output_kinds
        outputs = [
            graph.to_float32(each) if kind == "float16" else each for each, kind in zip(outputs, kinds, strict=True)
        ]
        if quantized and self.output_params is not None:
            if self.activation is not None:
                rest = [self._constant(graph, name, False) if name else "" for name in self.activation.input[1:]]
                outputs = graph.copy_node(self.activation, [outputs[0], *rest])
            outputs = [graph.qdq(outputs[0], self.output_params)]
        named = {f"output{index}": each for index, each in enumerate(outputs)}
        model = self._model(graph, inputs, named, kinds)
        control = ("the split of its input", self._split(inputs, quantized)) if len(self.input_parts) > 1 else None
        if quantized and self.output_params is not None:
            return Variant(title, model, self.output_params.scale, tolerance=_CODES_OFF, control=control)
        if not any(kind in _FLOATS for kind in kinds):
            return Variant(title, model, None, "of the elements", _SHARE_OFF, control=control)
        return Variant(title, model, None, "of the largest value", _FLOAT_TOLERANCE, control=control)

    def _split(self, inputs: np.ndarray, quantized: bool) -> onnx.ModelProto:
        """A model that only splits the input into operands, without which no operator of several operands can run."""
        graph = self._graph()
        parts = self._parts(graph, quantized).values()
        outputs = [graph.to_float32(each) if self.dtype == "float16" else each for each in parts]
        named = {f"output{index}": each for index, each in enumerate(outputs)}
        return self._model(graph, inputs, named, [self.dtype] * len(named))

    def _graph(self) -> GraphBuilder:
        """An empty graph with the Q/DQ domain of the node's inputs."""
        rounding = [self.network.writers[name] for name in self.dynamic if self.quant_params[name] is not None]
        return GraphBuilder(rounding[0].domain if rounding else "")

    def _model(
        self, graph: GraphBuilder, inputs: np.ndarray, outputs: Mapping[str, str], kinds: list[str]
    ) -> onnx.ModelProto:
        kinds = ["float32" if kind == "float16" else kind for kind in kinds]
        dtypes = dict(zip(outputs, kinds, strict=True))
        return graph.model(inputs.shape, outputs, self.network.opset, str(inputs.dtype), dtypes)

    def _parts(self, graph: GraphBuilder, quantized: bool) -> dict[str, str]:
        """The operands that are parts of the input, by name in the network."""
        names = {}
        for index, name in enumerate(self.input_parts):
            source = IMAGE
            if len(self.input_parts) > 1:
                size = self.shape[self.axis]
                source = graph.slice(IMAGE, index * size, (index + 1) * size, self.axis)
            if self.dtype == "float16":
                source = graph.to_fp16(source)
            names[name] = self._qdq(graph, name, source, quantized)
        return names

    def _qdq(self, graph: GraphBuilder, name: str, source: str, quantized: bool) -> str:
        quant_params = self.quant_params[name]
        return graph.qdq(source, quant_params) if quantized and quant_params is not None else source

    def _constant(self, graph: GraphBuilder, name: str, quantized: bool) -> str:
        constants, writer = self.network.constants, self.network.writers.get(name)
        if quantized and writer is not None and writer.op_type == "DequantizeLinear":
            return graph.copy_node(writer, [graph.constant(constants[each]) for each in writer.input])[0]
        return graph.constant(constants[name])

    def _params_of(self, name: str) -> QuantParams | None:
        """Quantization parameters of a tensor that a DequantizeLinear writes."""
        writer = self.network.writers.get(name)
        return self._params_of_node(writer) if writer is not None and writer.op_type == "DequantizeLinear" else None

    def _following(self) -> tuple[onnx.NodeProto | None, QuantParams | None]:
        """The activation that follows the node, if any, and the quantization parameters of the result."""
        readers = self.network.reading(self.node.output[0])
        activation = None
        kinds = [each.op_type in ACTIVATION_OPERATORS for each in (self.node, *readers)]
        if kinds == [False, True]:
            activation = readers[0]
            readers = self.network.reading(activation.output[0])
        if len(self.node.output) != 1 or not readers or any(each.op_type != "QuantizeLinear" for each in readers):
            return None, None
        return activation, self._params_of_node(readers[0])

    def _params_of_node(self, node: onnx.NodeProto) -> QuantParams | None:
        constants = self.network.constants
        if len(node.input) < 3 or not all(name in constants and constants[name].size == 1 for name in node.input[1:3]):
            return None
        scale, zero_point = (constants[name] for name in node.input[1:3])
        return QuantParams(float(scale.item()), int(zero_point.item()), str(zero_point.dtype))

    def _label(self) -> str:
        found = attributes(self.node)
        words = [
            f"{key.removesuffix('_shape')} {_short(found[key])}"
            for key in _SHOWN
            if key in found and found[key] != _DEFAULTS.get(key)
        ]
        constants = self.network.constants
        weights = self.node.input[1:2] if self.node.op_type in ("Conv", "ConvTranspose", "Gemm") else []
        sizes = [*self.shapes.values(), *(constants[name].shape for name in weights if name in constants)]
        kind = f" {self.dtype}" if self.dtype != "float32" else ""
        return f"{operator_of(self.node)}{kind} {', '.join([*words, *map(_short, filter(None, sizes))])}".rstrip()


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
