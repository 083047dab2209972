"""Builder of small ONNX graphs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from depth_distill.export.onnx_io.file_spec import OPSET
from depth_distill.export.onnx_io.onnx_graph import QDQ_OPERATORS, is_of_onnx
from depth_distill.export.onnx_io.quant_params import QuantParams

IMAGE = "image"


class GraphBuilder:
    """Builds an ONNX graph node by node; methods return the names of the tensors that they add.

    Args:
        domain: domain of QuantizeLinear and DequantizeLinear; ``com.microsoft`` supported INT16 before ONNX did.
    """

    def __init__(self, domain: str = "") -> None:
        self.domain = domain
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        """Add an initializer."""
        self.constants.append(numpy_helper.from_array(np.array(value), name or self._name("constant")))
        return str(self.constants[-1].name)

    def node(self, op: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Add an operator with one output."""
        output = self._name(op.lower())
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, domain=domain, **attributes))
        return output

    def copy_node(self, node: onnx.NodeProto, inputs: Sequence[str]) -> list[str]:
        """Add a copy of another graph's node with other inputs; empty names are omitted optional inputs."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        copy.name = self._name(node.op_type.lower())
        copy.output[:] = [f"{copy.name}_{index}" if name else "" for index, name in enumerate(node.output)]
        self.nodes.append(copy)
        return [name for name in copy.output if name]

    def qdq(self, tensor: str, params: QuantParams, read_as: QuantParams | None = None) -> str:
        """Add a Q/DQ pair; the DequantizeLinear uses ``read_as`` if it is given."""
        quantized = self.node("QuantizeLinear", [tensor, *self._scale_and_zero_point(params)], self.domain)
        return self.node("DequantizeLinear", [quantized, *self._scale_and_zero_point(read_as or params)], self.domain)

    def weights(self, codes: np.ndarray, scale: float | np.ndarray) -> str:
        """Add dequantized int8 weights with one scale, or one scale per output channel."""
        scales = np.asarray(scale, np.float32)
        parts = (codes, scales, np.zeros(scales.shape, np.int8))
        axis = {"axis": 0} if scales.ndim else {}
        return self.node("DequantizeLinear", [self.constant(part) for part in parts], self.domain, **axis)

    def conv(self, tensor: str, weights: str, bias: str | None = None, pad: int = 0, border: float = 0.0) -> str:
        """Add a convolution, padded left and right by ``pad`` columns of the value ``border``."""
        if border:
            sides = np.array([0, 0, 0, pad, 0, 0, 0, pad], np.int64)
            tensor = self.node("Pad", [tensor, self.constant(sides), self.constant(np.float32(border))])
            pad = 0
        return self.node("Conv", [tensor, weights, *([bias] if bias else [])], pads=[0, pad, 0, pad])

    def slice(self, tensor: str, start: int, stop: int, axis: int) -> str:
        """Add a slice of a tensor along one axis."""
        return self.node("Slice", [tensor, *(self.constant(np.array([each])) for each in (start, stop, axis))])

    def to_fp16(self, tensor: str) -> str:
        """Add a Cast to FP16."""
        return self.node("Cast", [tensor], to=TensorProto.FLOAT16)

    def to_float32(self, tensor: str) -> str:
        """Add a Cast to float32."""
        return self.node("Cast", [tensor], to=TensorProto.FLOAT)

    def model(
        self,
        shape: Sequence[int],
        outputs: Mapping[str, str],
        opset: int = OPSET,
        dtype: str = "float32",
        output_dtypes: Mapping[str, str] | None = None,
    ) -> onnx.ModelProto:
        """The model with one input, ``image``, and the given outputs.

        Args:
            shape: shape of the input.
            outputs: tensors by output name.
            opset: version of ONNX's own operator set.
            dtype: type of the input.
            output_dtypes: types of the outputs by name, unless they are float32.
        """
        names = {tensor: name for name, tensor in outputs.items()}
        nodes = []
        for node in self.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [names.get(each, each) for each in node.input]
            copy.output[:] = [names.get(each, each) for each in node.output]
            nodes.append(copy)
        # If one tensor is two outputs, the second is a copy.
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

    def _scale_and_zero_point(self, params: QuantParams) -> list[str]:
        return [
            self.constant(np.float32(params.scale)),
            self.constant(np.array(params.zero_point, params.dtype)),
        ]


def _with_shapes(model: onnx.ModelProto, opsets: Mapping[str, int]) -> onnx.ModelProto:
    """Infer all shapes; Q/DQ nodes of other domains, unknown to shape inference, are treated as ONNX's own."""
    domains = [node.domain for node in model.graph.node]
    pairs = [node for node in model.graph.node if node.op_type in QDQ_OPERATORS]
    known = dict(opsets)
    if not all(is_of_onnx(node) for node in pairs):
        known[""] = max(opsets[""], 21)  # the first opset whose own Q/DQ support 16 bits
    for node in pairs:
        node.domain = ""
    # Use the oldest IR version that supports this opset: old runtimes reject newer ones. ONNX's table of versions has
    # no other domains.
    model.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opsets[""])])
    model = onnx.shape_inference.infer_shapes(_importing(model, known))
    for node, domain in zip(model.graph.node, domains, strict=True):
        node.domain = domain
    return _importing(model, opsets)


def _importing(model: onnx.ModelProto, opsets: Mapping[str, int]) -> onnx.ModelProto:
    """The same model, with its opset imports replaced."""
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets.items())
    return model


def _kind(dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
