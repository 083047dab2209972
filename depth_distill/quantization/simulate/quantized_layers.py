"""Layers with a float ``weight`` and ``bias`` of the usual names, which are rounded in use."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from depth_distill.device import in_autocast
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer


class QuantizedLayer(nn.Module):
    """Base class of the layers below.

    Attributes:
        gradient_dtype: format that gradients may be computed in, such as bfloat16 under ``bf16-mixed``; that of the
            numbers unless set. The layer itself is computed as without it.

    If ``inputs`` holds the quantizer of the layer's input, the bias is rounded to int32 with the scale of the products,
    ``s_input * s_weight`` (Jacob et al. 2018, eq. 11; ONNX QLinearConv). That step is far below one step of the output,
    but rounding amplifies it: without it, half of the output codes of a trained ResNet18 U-Net differed from ONNX
    Runtime's by more than one step; with it, as few as between two memory layouts of the same network.
    """

    weight: Tensor
    bias: Any
    weight_quantizer: FakeQuantizer
    inputs: tuple[FakeQuantizer, ...] = ()  # a tuple, so that it does not become a submodule
    gradient_dtype: torch.dtype | None = None

    def forward(self, input: Tensor) -> Tensor:
        """The layer on rounded parameters; under autocast in float32, because its formats hold no rounded value."""
        if not (in_autocast(input.device) and self.weight_quantizer.enabled):
            return self._forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return self._forward(input.to(torch.promote_types(input.dtype, torch.float32)))

    def _forward(self, input: Tensor) -> Tensor:
        weight, bias = self.rounded()
        if self.gradient_dtype is not None and self.weight_quantizer.enabled and torch.is_grad_enabled():
            return self.apply_with_gradients_in(self.gradient_dtype, input, weight, bias)
        return self.apply_to(input, weight, bias)

    def apply_to(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with other parameters."""
        raise NotImplementedError

    def apply_with_gradients_in(self, dtype: torch.dtype, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As :meth:`apply_to`; gradients may be computed in ``dtype``, where that is faster."""
        return self.apply_to(input, weight, bias)

    def rounded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, rounded if their quantizers are on, with straight-through gradients."""
        weight = self.weight_quantizer(self.weight)
        both = (*self.inputs, self.weight_quantizer)
        if self.bias is None or not self.inputs or not all(each.rounds_to_integers for each in both):
            return weight, self.bias
        step = both[0].constants()[0] * both[1].constants()[0]
        codes = (self.bias.detach() / step).round()
        return weight, self.bias + (codes * step - self.bias.detach())


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """A convolution with rounded weight and bias."""

    def apply_to(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As in torch."""
        return self._conv_forward(input, weight, bias)

    @override
    def apply_with_gradients_in(self, dtype: torch.dtype, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As :meth:`apply_to`; a depthwise convolution has no products of matrices that a shorter format speeds up."""
        if self.groups > 1 or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return self.apply_to(input, weight, bias)
        convolved: Tensor = _ConvWithShortGradients.apply(
            input, weight, bias, dtype, self.stride, self.padding, self.dilation
        )
        return convolved


class QuantizedConvTranspose2d(QuantizedLayer, nn.ConvTranspose2d):  # type: ignore[misc]
    """A transposed convolution with rounded weight and bias, without ``output_size``."""

    def apply_to(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As in torch."""
        return nn.functional.conv_transpose2d(
            input,
            weight,
            bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.output_padding,
            self.groups,
            self.dilation,
        )


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer with rounded weight and bias."""

    def apply_to(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As in torch."""
        return nn.functional.linear(input, weight, bias)


QUANTIZED_LAYERS: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Conv2d: QuantizedConv2d,
    nn.ConvTranspose2d: QuantizedConvTranspose2d,
    nn.Linear: QuantizedLinear,
}
"""Fake-quantized class of each layer class."""


class _ConvWithShortGradients(torch.autograd.Function):
    """A convolution of one group in the format of its input, whose gradients are products in a shorter one.

    Forwards, a shorter format would move rounded values off their grid; gradients have none. These products are two
    thirds of a layer's arithmetic, and with AMX they take a quarter of the time in bfloat16.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> Tensor:
        ctx.save_for_backward(input.to(dtype), weight.to(dtype))
        ctx.formats, ctx.window = (input.dtype, weight.dtype), (stride, padding, dilation)
        return nn.functional.conv2d(input, weight, bias, stride, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:2], False]
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient.to(input.dtype), input, weight, None, *ctx.window, False, [0, 0], 1, wanted
        )
        both = (
            None if each is None else each.to(dtype)
            for each, dtype in zip((of_input, of_weight), ctx.formats, strict=True)
        )
        return *both, gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None, None, None
