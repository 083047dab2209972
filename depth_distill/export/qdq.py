"""The fake-quantized network as an ONNX file of QuantizeLinear/DequantizeLinear pairs."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError
from depth_distill.export.float_onnx import OPSET, OUTPUT_NAME, write_onnx
from depth_distill.quantization.fake_quant import FakeQuantizer
from depth_distill.quantization.insert import requantize_moves
from depth_distill.quantization.quantized_layers import QuantizedLayer

_CODES = ((0, 255), (-128, 127))  # what torch's exporter translates


def export_qdq(
    quantized: fx.GraphModule,
    example_image: Tensor,
    path: Path,
    opset: int = OPSET,
    output_names: Sequence[str] = (OUTPUT_NAME,),
) -> Path:
    """Write a network from ``fake_quantize`` with its scales; names and shapes as in ``export_float``.

    Weights are stored as int8. Quantizers that are switched off leave no trace: their tensors stay float.

    Args:
        quantized: fake-quantized and calibrated; it is not changed.
        example_image: ``(1, 3, H, W)``; only its shape and dtype count.
        path: where to; the file is whole or not there.
        opset: version of the ONNX operators.
        output_names: one for each tensor that the network returns.

    Raises:
        ConfigError: a quantizer without a range or with a format other than 8 bits, and as ``export_float``.
    """
    with atomic_path(path) as temporary:
        write_onnx(with_constants(quantized), example_image, temporary, opset, output_names)
        onnx.save(store_integer_weights(onnx.load(temporary)), temporary)
    return path


def with_constants(quantized: fx.GraphModule) -> fx.GraphModule:
    """A copy whose quantizers are torch's own operators with constant scales, which the exporter knows."""
    constant = requantize_moves(copy.deepcopy(quantized))
    for path, module in list(constant.named_modules()):
        if isinstance(module, QuantizedLayer):
            module.inputs = ()  # readers of QDQ files round biases by themselves
        if isinstance(module, FakeQuantizer):
            constant.set_submodule(path, _constant(module))
    return constant


def store_integer_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which a QuantizeLinear of a stored float tensor is that tensor's codes: a quarter of the size."""
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
    used = {name for node in model.graph.node for name in node.input}
    for tensor in list(model.graph.initializer):
        if tensor.name not in used:
            model.graph.initializer.remove(tensor)
    return model


def _constant(quantizer: FakeQuantizer) -> nn.Module:
    if not quantizer.enabled:
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
