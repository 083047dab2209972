"""Small ONNX graphs, written node by node."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from depth_distill.export.onnx_io.file_spec import OPSET
from depth_distill.export.onnx_io.onnx_graph import QDQ_OPERATORS, is_of_onnx
from depth_distill.export.onnx_io.quant_params import QuantParams

IMAGE = "image"


class Graph:
    """Nodes in the order in which they are added, and the constants that they read.

    Args:
        domain: of QuantizeLinear and DequantizeLinear; ``com.microsoft`` knew INT16 before ONNX did.
    """

    def __init__(self, domain: str = "") -> None:
        self.domain = domain
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        """Store a tensor; returns its name, as the other methods do."""
        self.constants.append(numpy_helper.from_array(np.array(value), name or self._name("constant")))
        return str(self.constants[-1].name)

    def node(self, op: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Any operator with one output."""
        output = self._name(op.lower())
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, domain=domain, **attributes))
        return output

    def copied(self, node: onnx.NodeProto, inputs: Sequence[str]) -> list[str]:
        """A node of another graph on other inputs; an empty name stays an input that is left out."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        copy.name = self._name(node.op_type.lower())
        copy.output[:] = [f"{copy.name}_{index}" if name else "" for index, name in enumerate(node.output)]
        self.nodes.append(copy)
        return [name for name in copy.output if name]

    def round(self, tensor: str, codes: QuantParams, read_as: QuantParams | None = None) -> str:
        """A Q/DQ pair; ``read_as`` is how the codes are read where that is not how they were written."""
        quantized = self.node("QuantizeLinear", [tensor, *self._format(codes)], self.domain)
        return self.node("DequantizeLinear", [quantized, *self._format(read_as or codes)], self.domain)

    def weights(self, codes: np.ndarray, scale: float | np.ndarray) -> str:
        """Dequantized int8 weights: one scale, or one for each output channel."""
        scales = np.asarray(scale, np.float32)
        parts = (codes, scales, np.zeros(scales.shape, np.int8))
        axis = {"axis": 0} if scales.ndim else {}
        return self.node("DequantizeLinear", [self.constant(part) for part in parts], self.domain, **axis)

    def conv(self, tensor: str, weights: str, bias: str | None = None, pad: int = 0, border: float = 0.0) -> str:
        """A convolution, padded left and right by ``pad`` columns of ``border``."""
        if border:
            sides = np.array([0, 0, 0, pad, 0, 0, 0, pad], np.int64)
            tensor = self.node("Pad", [tensor, self.constant(sides), self.constant(np.float32(border))])
            pad = 0
        return self.node("Conv", [tensor, weights, *([bias] if bias else [])], pads=[0, pad, 0, pad])

    def part(self, tensor: str, start: int, stop: int, axis: int) -> str:
        """A stretch of a tensor along an axis."""
        return self.node("Slice", [tensor, *(self.constant(np.array([each])) for each in (start, stop, axis))])

    def half(self, tensor: str) -> str:
        """In FP16."""
        return self.node("Cast", [tensor], to=TensorProto.FLOAT16)

    def single(self, tensor: str) -> str:
        """In float32."""
        return self.node("Cast", [tensor], to=TensorProto.FLOAT)

    def model(
        self,
        shape: Sequence[int],
        outputs: Mapping[str, str],
        opset: int = OPSET,
        dtype: str = "float32",
        output_dtypes: Mapping[str, str] | None = None,
    ) -> onnx.ModelProto:
        """The model from the input ``image`` of a shape to tensors, by the names that they get as outputs.

        Args:
            shape: of the input.
            outputs: tensors by output name.
            opset: version of ONNX's own operators.
            dtype: of the input.
            output_dtypes: by output name, where they are not float32.
        """
        names = {tensor: name for name, tensor in outputs.items()}
        nodes = []
        for node in self.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [names.get(each, each) for each in node.input]
            copy.output[:] = [names.get(each, each) for each in node.output]
            nodes.append(copy)
        # A tensor that is two outputs at once is copied for the second.
        for name, tensor in outputs.items():
            if names[tensor] != name:
                nodes.append(helper.make_node("Identity", [names[tensor]], [name], name))
        kinds = {name: _kind((output_dtypes or {}).get(name, "float32")) for name in outputs}
        graph = helper.make_graph(
            nodes,
            "probe",
            [helper.make_tensor_value_info(IMAGE, _kind(dtype), shape)],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
            self.constants,
        )
        opsets = {"": opset, **{node.domain: 1 for node in nodes if not is_of_onnx(node)}}
        return _with_shapes(helper.make_model(graph), opsets)

    def _name(self, kind: str) -> str:
        return f"{kind}_{len(self.nodes) + len(self.constants)}"

    def _format(self, codes: QuantParams) -> list[str]:
        return [
            self.constant(np.float32(codes.scale)),
            self.constant(np.array(codes.zero_point, codes.dtype)),
        ]


def _with_shapes(model: onnx.ModelProto, opsets: Mapping[str, int]) -> onnx.ModelProto:
    """Q/DQ pairs of another domain have the shapes of ONNX's own, which inference does not know."""
    domains = [node.domain for node in model.graph.node]
    rounding = [node for node in model.graph.node if node.op_type in QDQ_OPERATORS]
    known = dict(opsets)
    if not all(is_of_onnx(node) for node in rounding):
        known[""] = max(opsets[""], 21)  # whose own Q/DQ have 16 bits as well
    for node in rounding:
        node.domain = ""
    # The oldest format of the file that has these operators: who cannot read new operators reads no new format.
    # Other domains are not in ONNX's table.
    model.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opsets[""])])
    model = onnx.shape_inference.infer_shapes(_importing(model, known))
    for node, domain in zip(model.graph.node, domains, strict=True):
        node.domain = domain
    return _importing(model, opsets)


def _importing(model: onnx.ModelProto, opsets: Mapping[str, int]) -> onnx.ModelProto:
    """The model, in which these take the place of its opsets."""
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets.items())
    return model


def _kind(dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
