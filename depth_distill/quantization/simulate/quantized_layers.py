"""Layers with a float ``weight`` and ``bias`` of the usual names, which are rounded in use."""

from typing import Any

import torch
from torch import Tensor, nn

from depth_distill.device import in_autocast
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
            return self.apply_to(input, *self.rounded())
        with torch.autocast(input.device.type, enabled=False):
            return self.apply_to(input.to(torch.promote_types(input.dtype, torch.float32)), *self.rounded())

    def apply_to(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with other parameters."""
        raise NotImplementedError

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
