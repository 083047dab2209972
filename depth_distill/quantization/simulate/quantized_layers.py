"""Layers with a float ``weight`` and ``bias`` of the usual names, which are rounded in use."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from depth_distill.device import gradient_dtype, in_autocast, without_autocast
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer


class QuantizedLayer(nn.Module):
    """Base class of the layers below.

    If ``inputs`` holds the quantizer of the layer's input, the bias is rounded to int32 with the scale of the products,
    ``s_input * s_weight`` (Jacob et al. 2018, eq. 11; ONNX QLinearConv). That step is far below one step of the output,
    but rounding amplifies it: without it, half of the output codes of a trained ResNet18 U-Net differed from ONNX
    Runtime's by more than one step; with it, as few as between two memory layouts of the same network.
    """

    weight: Tensor
    bias: Any
    weight_quantizer: FakeQuantizer
    inputs: tuple[FakeQuantizer, ...] = ()  # a tuple, so that it does not become a submodule

    def forward(self, input: Tensor) -> Tensor:
        """The layer on rounded parameters; under autocast in float32, because its formats hold no rounded value."""
        if not (in_autocast(input.device) and self.weight_quantizer.enabled):
            return self._forward(input)
        with without_autocast(input.device):
            return self._forward(input.to(torch.promote_types(input.dtype, torch.float32)))

    def _forward(self, input: Tensor) -> Tensor:
        weight, bias = self.rounded()
        short = gradient_dtype() if torch.is_grad_enabled() else None
        if short is None:
            return self.apply_to(input, weight, bias)
        return self.apply_with_gradients_in(short, input, weight, bias)

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
        """As :meth:`apply_to`. Convolutions of several groups keep their format: shorter ones make them no faster."""
        if self.groups > 1 or input.ndim != 4 or isinstance(self.padding, str):
            return self.apply_to(input, weight, bias)
        padding = self.padding
        if self.padding_mode != "zeros":
            input = nn.functional.pad(input, self._reversed_padding_repeated_twice, self.padding_mode)
            padding = (0, 0)
        convolved: Tensor = _ConvWithShortGradients.apply(
            input, weight, bias, dtype, self.stride, padding, self.dilation
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
    """A convolution of one group and one batch dimension, whose gradients are products in a shorter format.

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
        of_input, of_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(input.to(dtype) if of_weight else None, weight.to(dtype) if of_input else None)
        ctx.short, ctx.shapes, ctx.window = dtype, (input.shape, weight.shape), (stride, padding, dilation)
        ctx.formats = input.dtype, weight.dtype
        return nn.functional.conv2d(input, weight, bias, stride, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        short = gradient.to(ctx.short)
        # What is not saved is not read, but its shape.
        input, weight = (
            short.new_empty(1).expand(shape) if each is None else each
            for each, shape in zip(ctx.saved_tensors, ctx.shapes, strict=True)
        )
        wanted = [*ctx.needs_input_grad[:2], False]
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            short, input, weight, None, *ctx.window, False, [0, 0], 1, wanted
        )
        both = (
            None if each is None else each.to(dtype)
            for each, dtype in zip((of_input, of_weight), ctx.formats, strict=True)
        )
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return *both, of_bias, None, None, None, None
