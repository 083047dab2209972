"""The fake-quantized network as an ONNX file of QuantizeLinear/DequantizeLinear pairs."""

import copy
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, fx, nn

from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.edits import to_opset, with_own_zero_points, with_shapes, without_unused
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import exported
from depth_distill.export.onnx_io.written import require_same_codes
from depth_distill.loading.onnx_importer.files import opset_of
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import requantize_moves, without_substitutions
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer
from depth_distill.quantization.target.target import NpuTarget

_CODES = ((0, 255), (-128, 127))  # ranges that torch's exporter supports
_LAYERS = ("Conv", "ConvTranspose", "Gemm")


def export_qdq(quantized: fx.GraphModule, path: Path, spec: FileSpec) -> Path:
    """Write a network from ``fake_quantize`` with its scales; names and shapes are those of ``export_float``.

    Weights are stored as int8, and biases as int32 with the scale of the products, as integer arithmetic adds them.
    Tensors of quantizers that are off, or that round to half precision, stay float. A uint8 input is itself the first
    quantized tensor. Activations are those of the network: a tool chain that substitutes them does so here, too.

    Args:
        quantized: fake-quantized and calibrated network; it is not changed.
        path: path of the new file, which is written completely or not at all.
        spec: input, outputs and opset.

    Raises:
        OpsetError: the opset cannot express it: Q/DQ pairs need opset 10, and one scale per channel 13.
        ConfigError: a quantizer has no range or another format than 8 bits, or see ``export_float``.
    """
    with atomic_path(path) as temporary:
        model = quantize_biases(store_integer_weights(exported(with_constants(quantized), spec)))
        model = read_codes(model) if spec.uint8_input else model
        older = to_opset(model, spec.opset)
        if opset_of(older) != opset_of(model):
            older = with_shapes(older)
            require_same_codes(older, model, spec, path)
        onnx.save(older, temporary)
    return path


def with_constants(quantized: fx.GraphModule) -> fx.GraphModule:
    """A copy whose quantizers are torch's own operators with constant scales, which the exporter supports."""
    constant = requantize_moves(without_substitutions(quantized).cpu())
    for path, module in list(constant.named_modules()):
        if isinstance(module, QuantizedLayer):
            module.inputs = ()  # biases are quantized in the file, see quantize_biases
        if isinstance(module, FakeQuantizer):
            constant.set_submodule(path, _constant(module))
    return constant


def store_integer_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every QuantizeLinear of a stored float tensor is replaced by its codes, a quarter of the size."""
    model = copy.deepcopy(model)
    stored = {each.name: each for each in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type != "QuantizeLinear" or not all(name in stored for name in node.input):
            continue
        values, scale, zero_point = (numpy_helper.to_array(stored[name]) for name in node.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if scale.ndim:
            shape = [-1 if dim == axis else 1 for dim in range(values.ndim)]
            scale, offset = scale.reshape(shape), zero_point.reshape(shape)
        else:
            offset = zero_point
        limits = np.iinfo(zero_point.dtype)
        codes = np.clip(np.rint(values / scale) + offset, limits.min, limits.max).astype(zero_point.dtype)
        model.graph.initializer.append(numpy_helper.from_array(codes, node.output[0]))
        model.graph.node.remove(node)
    return with_own_zero_points(without_unused(model))


def quantize_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the bias of a layer with quantized input and weight is int32, with the product of their scales.

    Integer arithmetic adds biases in this form (Jacob et al. 2018, eq. 11), and readers of QDQ files expect it.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    stored = {each.name: each for each in graph.initializer}
    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    written: dict[tuple[str, bytes], str] = {}  # dequantized bias, by its name and scale: a layer may be called twice
    position = 0
    for node in list(graph.node):
        if node.op_type in _LAYERS and len(node.input) == 3 and node.input[2] in stored:
            sources = [dequantized.get(name) for name in node.input[:2]]
            if all(source is not None and source.input[1] in stored for source in sources):
                scales = [numpy_helper.to_array(stored[source.input[1]]) for source in sources if source is not None]
                scale = (scales[0] * scales[1]).astype(np.float32)
                key = (node.input[2], scale.tobytes())
                if key not in written:
                    # Behind another scale the same bias has other codes.
                    earlier = sum(name == node.input[2] for name, _ in written)
                    base = node.input[2] + (f".call_{earlier}" if earlier else "")
                    bias = numpy_helper.to_array(stored[node.input[2]])
                    dequantize = _write_bias(graph, base, bias, scale)
                    written[key] = dequantize.output[0]
                    graph.node.insert(position, dequantize)
                    position += 1
                node.input[2] = written[key]
        position += 1
    return without_unused(model)


def _write_bias(
    graph: onnx.GraphProto, name: str, bias: NDArray[np.float32], scale: NDArray[np.float32]
) -> onnx.NodeProto:
    """Store a bias as int32 codes, and make the node that gives its values."""
    limits = np.iinfo(np.int32)
    codes = np.clip(np.rint(bias / scale.astype(np.float64)), limits.min, limits.max).astype(np.int32)
    parts = {"codes": codes, "scale": scale, "zero_point": np.zeros(scale.shape, np.int32)}
    graph.initializer.extend(numpy_helper.from_array(value, f"{name}.{part}") for part, value in parts.items())
    dequantize = onnx.helper.make_node(
        "DequantizeLinear", [f"{name}.{part}" for part in parts], [f"{name}.dequantized"], f"{name}.dequantized"
    )
    if scale.ndim:
        dequantize.attribute.append(onnx.helper.make_attribute("axis", 0))
    return dequantize


def read_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which a uint8 input that was cast to float and quantized with scale 1 is the quantized tensor itself.

    Raises:
        ConfigError: the input is quantized with another scale, which would change the pixels, or is read as floats.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    pixels = {each.name for each in graph.input if each.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    for cast in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in pixels]:
        for quantize in [node for node in graph.node if node.input and node.input[0] == cast.output[0]]:
            if quantize.op_type != "QuantizeLinear":
                raise ConfigError(f"uint8 input: {quantize.name} ({quantize.op_type}) reads the pixels as floats")
            scale, zero_point = (stored[name] for name in quantize.input[1:])
            if scale != 1 or zero_point != 0 or zero_point.dtype != np.uint8:
                raise ConfigError(
                    f"uint8 input: the image is quantized to {zero_point.dtype} with scale {scale} and zero point "
                    f"{zero_point}, expected uint8, 1 and 0: this target needs float input"
                )
            for node in graph.node:
                node.input[:] = [cast.input[0] if name == quantize.output[0] else name for name in node.input]
            graph.node.remove(quantize)
        graph.node.remove(cast)
    return without_unused(model)


def require_writable(target: NpuTarget) -> None:
    """Refuse a target whose tensors no INT8 file can hold, before anything is computed.

    Raises:
        ConfigError: a dtype has not 8 bits.
    """
    dtypes = {"weights.dtype": target.weights.dtype, "activations.dtype": target.activations.dtype}
    for key, dtype in (dtypes | {f"dtypes.{name}": each for name, each in target.dtypes.items()}).items():
        if dtype not in ("int8", "uint8"):
            raise ConfigError(
                f"target {target.name}: {key} is {dtype}, and an exported INT8 file holds int8 and uint8; "
                "error-budget, roadmap, fit and harden work with such a target, by simulation"
            )


def _constant(quantizer: FakeQuantizer) -> nn.Module:
    if not quantizer.enabled or quantizer.in_half:
        return nn.Identity()
    if not quantizer.has_range:
        raise ConfigError(f"the quantizer {quantizer.site} has no range: calibrate before exporting")
    tensor_format = quantizer.tensor_format
    if (tensor_format.quant_min, tensor_format.quant_max) not in _CODES:
        raise ConfigError(f"the quantizer {quantizer.site} has dtype {tensor_format.dtype}, expected int8 or uint8")
    return _ConstantQuantizer(quantizer)


class _ConstantQuantizer(nn.Module):
    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: FakeQuantizer) -> None:
        super().__init__()
        self.codes = (quantizer.tensor_format.quant_min, quantizer.tensor_format.quant_max)
        self.channel_dim = quantizer.channel_dim
        scale, zero_point = quantizer.constants()
        self.per_channel = scale.ndim > 0
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point.to(torch.int32))
        if not self.per_channel:
            self.constants = float(scale), int(zero_point)

    def forward(self, values: Tensor) -> Tensor:
        if self.per_channel:
            return torch.fake_quantize_per_channel_affine(
                values, self.scale, self.zero_point, self.channel_dim, *self.codes
            )
        return torch.fake_quantize_per_tensor_affine(values, *self.constants, *self.codes)
