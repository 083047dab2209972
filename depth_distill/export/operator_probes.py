"""Each distinct operator of an ONNX file as a model of its own, for tool chains to try."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from depth_distill.errors import ConfigError
from depth_distill.export.codes import Codes
from depth_distill.export.layers import load
from depth_distill.export.npu_rules.activations import ACTIVATION_OPERATORS
from depth_distill.export.onnx_graph import OnnxGraph, attributes
from depth_distill.export.probe_graphs import IMAGE, Graph
from depth_distill.export.probe_judgement import Probe, Variant

# FP16 keeps 11 bits; 1 % leaves room for sums of a thousand rounded products. Another operator is off by far more.
_FLOAT_TOLERANCE = 0.01
# One where a multiplier of finite width tips a code that lies near a tie, one for the bias or the activation behind.
_CODES_OFF = 2
_SHOWN = ("kernel_shape", "strides", "dilations", "group", "axis", "axes", "mode", "perm", "to", "keepdims")
_DULL = {"strides": [1, 1], "dilations": [1, 1], "group": 1}


@dataclass(frozen=True)
class OperatorProbe(Probe):
    """An operator with its attributes and shapes.

    Attributes:
        op: its ONNX type.
        count: nodes of the file that are like it.
        stand_in: a constant took the place of an input of another shape, as probes have one input.
    """

    op: str = ""
    count: int = 1
    stand_in: bool = False


def operator_probes(path: Path) -> list[OperatorProbe]:
    """One for each combination of operator, attributes, shapes and types, in the order of the file.

    Q/DQ pairs come along where a node stands between them, and the activation behind a node that is rounded with it.

    Raises:
        ConfigError: the file cannot be read, or a tensor's shape is not fixed.
    """
    graph = OnnxGraph(load(path))
    cuts: dict[str, _Cut] = {}
    counts: dict[str, int] = {}
    for node in graph.operators():
        cut = _Cut(graph, node, path)
        counts[cut.key] = counts.get(cut.key, 0) + 1
        cuts.setdefault(cut.key, cut)
    return [cut.probe(counts[key]) for key, cut in cuts.items()]


class _Cut:
    """A node with what surrounds it."""

    def __init__(self, graph: OnnxGraph, node: onnx.NodeProto, path: Path) -> None:
        self.graph, self.node = graph, node
        self.writers = {name: each for each in graph.nodes for name in each.output}
        self.dynamic = [name for name in dict.fromkeys(node.input) if name and name not in graph.constants]
        if not self.dynamic:
            raise ConfigError(f"{path}: {node.op_type} that writes {node.output[0]} reads no tensor of the network")
        shapes = {name: graph.static_shape(name) for name in self.dynamic}
        for name, shape in shapes.items():
            if shape is None:
                raise ConfigError(f"{path}: the shape of {name} is not fixed; export it with a static batch of 1")
        self.shapes = {name: shape for name, shape in shapes.items() if shape is not None}
        self.shape = self.shapes[self.dynamic[0]]
        self.dtype = graph.dtype(self.dynamic[0]) or "float32"
        self.codes = {name: self._written_with(name) for name in self.dynamic}
        self.activation, self.output_codes = self._behind()
        self.quantized = self.output_codes is not None and all(each is not None for each in self.codes.values())
        constants = [graph.constants[name].shape for name in node.input if name in graph.constants]
        behind = self.activation.op_type if self.activation is not None and self.quantized else ""
        kinds = [graph.dtype(name) for name in self.dynamic]
        self.key = str(
            (node.op_type, node.domain, sorted(attributes(node).items(), key=str), self.shapes.values(), constants,
             kinds, behind, self.quantized)
        )  # fmt: skip

    def probe(self, count: int) -> OperatorProbe:
        """The probe: with Q/DQ pairs if there are any around it, else in the file's float type."""
        rng = np.random.default_rng(0)
        inputs: np.ndarray
        codes = self.codes[self.dynamic[0]]
        if self.dtype == "bool":
            inputs = rng.random(self.shape) < 0.5
        elif self.dtype not in ("float32", "float16"):
            limits = np.iinfo(self.dtype)
            inputs = rng.integers(limits.min, limits.max, self.shape, self.dtype, endpoint=True)
        elif self.quantized and codes is not None:
            limits = np.iinfo(codes.dtype)
            levels = rng.integers(limits.min, limits.max, self.shape, endpoint=True) - codes.zero_point
            inputs = (levels * codes.scale).astype(np.float32)
        else:
            inputs = rng.standard_normal(self.shape)
            if self.node.op_type in ("Log", "Sqrt", "Pow", "Div"):
                inputs = np.abs(inputs) + 0.1
            inputs = inputs.astype(np.float16).astype(np.float32)  # FP16 holds them, so moves are exact
        titles = ("between Q/DQ pairs", "in float") if self.quantized else ("",)
        variants = tuple(self._variant(title, title.startswith("between")) for title in titles)
        stand_in = any(shape != self.shape for shape in self.shapes.values())
        return OperatorProbe(self._label(), inputs, variants, "", self.node.op_type, count, stand_in)

    def _variant(self, title: str, quantized: bool) -> Variant:
        graph = Graph()
        rng = np.random.default_rng(1)
        names: dict[str, str] = {}
        for name in self.dynamic:
            kind = self.graph.dtype(name) or "float32"
            source = IMAGE
            if self.shapes[name] != self.shape:
                source = graph.constant(rng.standard_normal(self.shapes[name]).astype(np.float32))
            codes = self.codes[name]
            if quantized and codes is not None:
                source = graph.round(source, codes)
            elif kind == "float16":
                source = graph.half(source)
            names[name] = source
        for name in self.node.input:
            if name and name not in names:
                names[name] = self._constant(graph, name, quantized)
        outputs = graph.copied(self.node, [names.get(name, "") for name in self.node.input])
        kinds = [self.graph.dtype(name) or "float32" for name in self.node.output if name]
        outputs = [graph.single(each) if kind == "float16" else each for each, kind in zip(outputs, kinds, strict=True)]
        kinds = ["float32" if kind == "float16" else kind for kind in kinds]
        if quantized and self.output_codes is not None:
            if self.activation is not None:
                rest = [self._constant(graph, name, False) if name else "" for name in self.activation.input[1:]]
                outputs = graph.copied(self.activation, [outputs[0], *rest])
            outputs = [graph.round(outputs[0], self.output_codes)]
        named = {f"output{index}": each for index, each in enumerate(outputs)}
        dtype = "float32" if self.dtype == "float16" else self.dtype
        model = graph.model(self.shape, named, self.graph.opset, dtype, dict(zip(named, kinds, strict=False)))
        if kinds[0] not in ("float32", "float16"):
            # Ties of ArgMax may go either way.
            return Variant(title, model, 1, "of the elements", 0.02)
        if quantized and self.output_codes is not None:
            return Variant(title, model, self.output_codes.scale, tolerance=_CODES_OFF)
        return Variant(title, model, None, "of the largest value", _FLOAT_TOLERANCE)

    def _constant(self, graph: Graph, name: str, quantized: bool) -> str:
        writer = self.writers.get(name)
        if quantized and writer is not None and writer.op_type == "DequantizeLinear":
            parts = [graph.constant(self.graph.constants[each]) for each in writer.input]
            return graph.copied(writer, parts)[0]
        return graph.constant(self.graph.constants[name])

    def _written_with(self, name: str) -> Codes | None:
        """The format of a tensor that a DequantizeLinear writes."""
        writer = self.writers.get(name)
        return self._format(writer) if writer is not None and writer.op_type == "DequantizeLinear" else None

    def _behind(self) -> tuple[onnx.NodeProto | None, Codes | None]:
        """The activation behind the node, if any, and the format that what comes out is rounded to."""
        readers = self._readers(self.node.output[0])
        activation = None
        kinds = [each.op_type in ACTIVATION_OPERATORS for each in (self.node, *readers)]
        if kinds == [False, True]:
            activation = readers[0]
            readers = self._readers(activation.output[0])
        if len(self.node.output) != 1 or not readers or any(each.op_type != "QuantizeLinear" for each in readers):
            return None, None
        return activation, self._format(readers[0])

    def _readers(self, name: str) -> list[onnx.NodeProto]:
        return [each for each in self.graph.nodes if name in each.input]

    def _format(self, node: onnx.NodeProto) -> Codes | None:
        constants = self.graph.constants
        if len(node.input) < 3 or not all(name in constants and constants[name].size == 1 for name in node.input[1:3]):
            return None
        scale, zero_point = (constants[name] for name in node.input[1:3])
        return Codes(float(scale.item()), int(zero_point.item()), str(zero_point.dtype))

    def _label(self) -> str:
        found = attributes(self.node)
        words = [
            f"{key.removesuffix('_shape')} {_short(found[key])}"
            for key in _SHOWN
            if key in found and found[key] != _DULL.get(key)
        ]
        constants = self.graph.constants
        weights = self.node.input[1:2] if self.node.op_type in ("Conv", "ConvTranspose", "Gemm") else []
        sizes = [*self.shapes.values(), *(constants[name].shape for name in weights if name in constants)]
        kind = f" {self.dtype}" if self.dtype != "float32" else ""
        return f"{self.node.op_type}{kind} {', '.join(words + [_short(each) for each in sizes])}"


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
