"""Fake quantization: rounding to a tensor format in the forward pass, straight-through gradients in the backward pass.

Why not torchao's classes (0.18, ``torchao.quantization.pt2e``):

* ``FakeQuantize`` switches on buffers, so every forward pass branches on tensor values: that cannot be exported and
  makes a GPU wait. It has no power-of-two scales, and an unobserved instance silently quantizes with scale 1.
* ``LearnableFakeQuantize`` creates its parameters in the first forward pass, after the optimizer was built.
* Both call torch's fake-quantize operators, whose CPU kernels are scalar: 13.9 ms forward and backward for 1.6 M values
  on one core (29.8 ms with learned ranges), against 1.1 ms for :class:`_RoundToFormat`, as much as a ReLU.
* Importing it takes 5 s.

Its conventions are kept: the qparams of its ``MinMaxObserver``, ranges that include zero, learned zero points.
For export the quantizers are replaced by torch's own operators with constants, see ``export/qdq.py``.
"""

from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from depth_distill.device import in_autocast
from depth_distill.errors import ConfigError
from depth_distill.quantization.target.target import TensorFormat

SiteKind = Literal["input", "weight", "activation", "output"]
"""Kind of tensor that a quantizer rounds; ``output`` is an output of the network."""

_SMALLEST_SCALE = torch.finfo(torch.float32).eps  # torchao's floor: keeps 1 / scale and int32 biases finite


def affine_parameters(low: Tensor, high: Tensor, tensor_format: TensorFormat) -> tuple[Tensor, Tensor]:
    """Scale and zero point that represent ``[low, high]``, widened to include zero.

    Symmetric: ``scale = max(|low|, |high|) / quant_max``. Asymmetric: ``scale = (high - low) / (quant_max -
    quant_min)``, ``zero_point = quant_min - round(low / scale)`` (Jacob et al. 2018, eq. 1; ONNX QuantizeLinear).
    Power-of-two scales are rounded up, so that nothing saturates. An all-zero range gets scale 1.

    Returns:
        Both in float32, in the shape of ``low``; the zero point is a whole number.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if tensor_format.symmetric:
        scale = torch.maximum(-low, high) / tensor_format.quant_max
    else:
        scale = (high - low) / (tensor_format.quant_max - tensor_format.quant_min)
    scale = torch.where(scale > 0, scale.clamp(min=_SMALLEST_SCALE), 1.0)
    if tensor_format.power_of_two:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    if tensor_format.symmetric:
        return scale, torch.zeros_like(scale)
    zero_point = tensor_format.quant_min - torch.round(low / scale)
    return scale, zero_point.clamp(tensor_format.quant_min, tensor_format.quant_max)


class FakeQuantizer(nn.Module):
    """Rounds a tensor to ``tensor_format`` with its own scale and zero point.

    State, all of shape ``()`` or ``(C,)``: ``low`` and ``high``, the range last set or tracked; ``scale`` and
    ``zero_point``, parameters if the range is learned, otherwise buffers. The switches are plain attributes and not
    part of the state:

    * ``enabled``: if False, the tensor is returned as it is.
    * ``in_half``: if True, values are rounded to IEEE half precision instead, as in a layer that stays in FP16.
    * ``tracking``: if True, the range follows each tensor: for weights exactly (the tool chain also measures the final
      weights), for activations as a moving average with ``momentum``, in training mode only and over all processes.

    Args:
        site: name of the quantizer's place in the network.
        kind: kind of the tensor that is rounded.
        tensor_format: format to round to.
        channels: number of scales if ``tensor_format`` is per-channel.
        channel_dim: dimension of the channels.
        learnable: whether the range is learned, as in LSQ (Esser et al. 2020) and, for zero points, LSQ+ (Bhalgat et
            al. 2020).

    Raises:
        ConfigError: from ``forward``, if no range was set, tracked or loaded before.
    """

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        site: str,
        kind: SiteKind,
        tensor_format: TensorFormat,
        channels: int = 1,
        channel_dim: int = 0,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        self.site = site
        self.kind = kind
        self.tensor_format = tensor_format
        self.channel_dim = channel_dim
        self.learnable = learnable
        self.enabled = True
        self.in_half = False
        self.tracking = kind == "weight" and not learnable
        self.momentum = 0.01
        self.has_range = False
        shape = (channels,) if tensor_format.granularity == "per_channel" else ()
        self.register_buffer("low", torch.zeros(shape))
        self.register_buffer("high", torch.zeros(shape))
        for name, value in (("scale", torch.full(shape, torch.nan)), ("zero_point", torch.zeros(shape))):
            if learnable and not (name == "zero_point" and tensor_format.symmetric):
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def set_range(self, low: Tensor | float, high: Tensor | float) -> None:
        """Set the range to ``[low, high]``, both of shape ``()`` or ``(C,)``, widened to include zero."""
        with torch.no_grad():
            self.low.copy_(torch.as_tensor(low)).clamp_(max=0.0)
            self.high.copy_(torch.as_tensor(high)).clamp_(min=0.0)
            scale, zero_point = affine_parameters(self.low, self.high, self.tensor_format)
            self.scale.copy_(scale)
            self.zero_point.copy_(zero_point)
        self.has_range = True

    def use_format(self, tensor_format: TensorFormat) -> None:
        """Round to another format of the same granularity, with the same range."""
        self.tensor_format = tensor_format
        if self.has_range:
            self.set_range(self.low.clone(), self.high.clone())

    @property
    def rounds_to_integers(self) -> bool:
        """Whether the output lies on the integer grid of a scale."""
        return self.enabled and self.has_range and not self.in_half

    def range_of(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Minimum and maximum of a tensor, overall or per channel."""
        values = values.detach()
        if self.low.ndim == 0:
            low, high = _in_memory_order(values).aminmax()
            return low, high
        return values.movedim(self.channel_dim, 0).flatten(1).aminmax(dim=1)

    def constants(self) -> tuple[Tensor, Tensor]:
        """Scale and integer zero point as they are applied, without gradients; an export writes these."""
        with torch.no_grad():
            scale, zero_point = self._applied()
            return scale.clone(), zero_point.round().clone()

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of the output, for a per-tensor range."""
        scale, zero_point = (float(each) for each in self.constants())
        codes = self.tensor_format
        return (codes.quant_min - zero_point) * scale, (codes.quant_max - zero_point) * scale

    def forward(self, values: Tensor) -> Tensor:
        """The values rounded to the grid of the format, in their own dtype; under autocast in float32 or wider.

        Neither bfloat16 nor float16 holds ``code * scale``: back in bfloat16, values would be off by up to a quarter
        of a step. Autocast takes float32 wherever it takes shorter formats.
        """
        if not self.enabled:
            return values
        if in_autocast(values.device):
            values = values.to(torch.promote_types(values.dtype, torch.float32))
        if self.in_half:
            rounded: Tensor = _RoundToHalf.apply(values)
            return rounded
        if self.tracking and (self.kind == "weight" or self.training):
            self._track(values)
        if not self.has_range:
            raise ConfigError(f"the quantizer {self.site} has no range yet: calibrate the network or load ranges")
        scale, zero_point = self._applied()
        if self.scale.ndim:
            shape = [-1 if dim == self.channel_dim else 1 for dim in range(values.ndim)]
            scale, zero_point = scale.view(shape), zero_point.view(shape)
        codes = (self.tensor_format.quant_min, self.tensor_format.quant_max)
        factor = self._gradient_scale(values) if self.learnable else 1.0
        # Rounding needs float32: bfloat16 has 8 significant bits.
        return _RoundToFormat.apply(values.float(), scale, zero_point, codes, factor).to(values.dtype)

    def extra_repr(self) -> str:
        """Site, format and switches."""
        tensor_format = self.tensor_format
        parts = [self.site, tensor_format.dtype, tensor_format.granularity]
        parts += [flag for flag in ("symmetric", "power_of_two") if getattr(tensor_format, flag)]
        parts += [flag for flag in ("learnable", "tracking", "in_half") if getattr(self, flag)]
        parts += ["off"] * (not self.enabled)
        return ", ".join(parts)

    def _track(self, values: Tensor) -> None:
        low, high = self.range_of(values)
        if self.kind != "weight":
            low, high = _over_processes(low, high)
        if self.has_range and self.kind != "weight":
            low = torch.lerp(self.low, low.float(), self.momentum)
            high = torch.lerp(self.high, high.float(), self.momentum)
        self.set_range(low, high)

    def _applied(self) -> tuple[Tensor, Tensor]:
        if not self.learnable:
            # A copy, because autograd keeps it and tracking overwrites the buffer in the next forward pass.
            return self.scale.clone(), self.zero_point
        scale = self.scale.abs().clamp(min=_SMALLEST_SCALE)
        if self.tensor_format.power_of_two:
            # Straight-through gradient for the rounding of the exponent.
            scale = scale + (torch.exp2(torch.ceil(torch.log2(scale))) - scale).detach()
        return scale, self.zero_point.clamp(self.tensor_format.quant_min, self.tensor_format.quant_max)

    def _gradient_scale(self, values: Tensor) -> float:
        """1 / sqrt(N quant_max); N is the number of values per scale of a weight, or per sample of an activation.

        Esser et al. 2020, section 2.2.
        """
        count = values.numel() / self.scale.numel() if self.kind == "weight" else values[0].numel()
        return float((count * self.tensor_format.quant_max) ** -0.5)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self.has_range = not bool(self.scale.isnan().any())


def _in_memory_order(values: Tensor) -> Tensor:
    """Images in channels-last memory as a contiguous tensor, which torch reduces eight times faster on a CPU."""
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1)
    return values


def _over_processes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range of the values of all processes, so that each rounds as one with all their samples would."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return low, high
    widest = torch.stack([-low, high])
    distributed.all_reduce(widest, distributed.ReduceOp.MAX)
    return -widest[0], widest[1]


class _RoundToFormat(torch.autograd.Function):
    """``(clamp(round(x / s) + z) - z) s`` with ``z`` rounded: QuantizeLinear, then DequantizeLinear (ONNX).

    Gradient of ``x``: the clipped straight-through estimator (Bengio et al. 2013). Of ``s``: LSQ eq. 3 (Esser et al.
    2020), ``round(x/s) - x/s`` inside the range and the clipped code outside, both relative to ``z``. Of ``z``: LSQ+
    (Bhalgat et al. 2020, with its offset as a zero point), 0 inside and ``-s`` outside. The last two are multiplied by
    ``factor``.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, codes: tuple[int, int], factor: float
    ) -> Tensor:
        zero_point = zero_point.round()
        ctx.save_for_backward(values, scale, zero_point)
        ctx.codes, ctx.factor = codes, factor
        return _round_to_format(values, scale, zero_point, codes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, scale, zero_point = ctx.saved_tensors
        # Values up to half a step beyond the last code are rounded to it.
        lowest = _bound((ctx.codes[0] - zero_point - 0.5) * scale)
        highest = _bound((ctx.codes[1] - zero_point + 0.5) * scale)
        if isinstance(lowest, float):
            passed = torch.ops.aten.hardtanh_backward(gradient, values, lowest, highest)
        else:
            passed = gradient * ((values > lowest) & (values < highest))
        of_scale = of_zero_point = None
        if ctx.needs_input_grad[1]:
            quantized = _round_to_format(values, scale, zero_point, ctx.codes)
            of_scale = ((gradient * quantized - passed * values) / scale).sum_to_size(scale.shape) * ctx.factor
        if ctx.needs_input_grad[2]:
            of_zero_point = ((passed - gradient) * scale).sum_to_size(zero_point.shape) * ctx.factor
        return passed, of_scale, of_zero_point, None, None


class _RoundToHalf(torch.autograd.Function):
    """Rounding to IEEE half precision, with a straight-through gradient.

    That of a cast would itself be in half precision: 0 below 3e-8, and infinite above 65504.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.half().to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _round_to_format(values: Tensor, scale: Tensor, zero_point: Tensor, codes: tuple[int, int]) -> Tensor:
    lowest, highest = _bound(codes[0] - zero_point), _bound(codes[1] - zero_point)
    return values.div(scale).round_().clamp_(lowest, highest).mul_(scale)


def _bound(value: Tensor) -> Any:
    """A number if reading it costs nothing (vectorized CPU kernels take numbers), otherwise the tensor."""
    return value.item() if value.numel() == 1 and value.device.type == "cpu" else value
