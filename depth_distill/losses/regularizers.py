"""Penalties on a network's weights that make one INT8 scale per tensor sufficient.

They cover convolutions, transposed convolutions and linear layers, quantized or not. Fold batch norm first: otherwise
it rescales the channels of a weight arbitrarily, and the weight that is quantized is a different one.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

# A channel 10^4 times below its layer's largest is 80 times below one INT8 step (1/127), i.e. dead. It is excluded, as
# the gradient of its logarithm, 1/|w|, would dominate all others.
_DEAD = 1e-4


class ChannelRangePenalty(nn.Module):
    """Equalizes the weight ranges of a layer's channels: mean over layers of the variance of ``ln max |w_c|``.

    Dimensionless and invariant to the scale of a layer; 0 if all channels of each layer have the same range, the state
    that equalization (Nagel et al. 2019, section 4.1) reaches by rescaling and that per-tensor weights need. The square
    root is the typical spread: 1 means a factor of e. A layer with one channel counts as 0. Channels 10^4 times below
    their layer's largest are treated as dead and left out.

    The maximum is approximated by the norm of order 8, whose gradient reaches all weights near the maximum (a weight at
    3/4 of it gets 0.75^7 = 13 %) instead of a single one that changes from step to step. Its excess over the true
    maximum, at most a factor of n^(1/8), is similar for all channels of a layer and cancels in the variance.

    Args:
        inputs: add the variance over input channels, which equalization with the preceding layer can trade for the
            variance over that layer's output channels.
    """

    def __init__(self, inputs: bool = False) -> None:
        super().__init__()
        self.inputs = inputs

    def forward(self, network: nn.Module) -> Tensor:
        """The penalty, a scalar.

        Raises:
            ValueError: the network has no layer with weights.
        """
        penalties = []
        for layer in _layers(network):
            penalties.append(_log_range_variance(layer, of_inputs=False))
            if self.inputs:
                penalties[-1] = penalties[-1] + _log_range_variance(layer, of_inputs=True)
        return torch.stack(penalties).mean()


class KurtosisPenalty(nn.Module):
    """KURE: mean over layers of ``(kurtosis(w) - target)^2``, with ``kurtosis = mean ((w - mean w) / std w)^4``.

    Shkolnik et al. 2020. Dimensionless and invariant to the scale and shift of a layer. The kurtosis is 3 for a normal
    distribution and 1.8 for a uniform one, which makes the best use of evenly spaced codes. A layer whose weights are
    all equal has no kurtosis and counts as 0.
    """

    def __init__(self, target: float = 1.8) -> None:
        super().__init__()
        self.target = target

    def forward(self, network: nn.Module) -> Tensor:
        """The penalty, a scalar.

        Raises:
            ValueError: the network has no layer with weights.
        """
        excess = []
        for layer in _layers(network):
            kurtosis, defined = _Kurtosis.apply(_at_least_float32(layer.weight).flatten())
            excess.append(torch.where(defined, kurtosis - self.target, 0.0))
        return torch.stack(excess).square().mean()


def _layers(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d | nn.Linear]:
    layers = [module for module in network.modules() if isinstance(module, _LAYERS)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no convolution, transposed convolution or linear layer")
    return layers


def _at_least_float32(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()


def _log_range_variance(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, of_inputs: bool) -> Tensor:
    weight = _at_least_float32(layer.weight)
    first, second = weight.shape[:2]
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    # A transposed convolution's weight is (inputs, outputs / groups, ...), others' is (outputs, inputs / groups, ...).
    if of_inputs == isinstance(layer, nn.ConvTranspose2d):
        log_range, alive = _LogRange.apply(weight.flatten(1), (1,))
    else:
        log_range, alive = _LogRange.apply(weight.reshape(groups, first // groups, second, -1), (1, 3))
    count = alive.sum().clamp(min=1)
    mean = torch.where(alive, log_range, 0.0).sum() / count
    return torch.where(alive, (log_range - mean).square(), 0.0).sum() / count


# Both functions below implement their gradients. Autograd would store every intermediate of 14 M weights, which costs
# more time on a CPU than the arithmetic: a call took 2 to 3 times as long.


class _LogRange(torch.autograd.Function):
    """Logarithm of the norm of order 8 over ``dims`` per channel, and whether the channel is alive."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        # One dimension at a time: torch takes 7 times as long over two dimensions that are not adjacent.
        peak = weight.abs()
        for dim in dims:
            peak = peak.amax(dim, keepdim=True)
        alive = ~(peak <= _DEAD * peak.amax())  # negated so that NaN counts as alive and shows in the result
        # Divided by the peak, so that the eighth power of a small weight does not underflow.
        peak = torch.where(alive, peak, 1.0)
        total = (weight / peak).square_().square_().square_()
        for dim in dims:
            total = total.sum(dim, keepdim=True)
        total = torch.where(alive, total, 1.0)
        ctx.save_for_backward(weight, peak, total)
        ctx.mark_non_differentiable(alive)
        return peak.log() + total.log() / 8, alive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None]:
        weight, peak, total = ctx.saved_tensors
        # d ln (sum w^8)^(1/8) / dw = w^7 / sum w^8 = (w / peak)^7 / (peak * total)
        ratio = weight / peak
        square = ratio.square()
        return ratio.mul_(square).mul_(square.square_()).mul_(gradient / (peak * total)), None


class _Kurtosis(torch.autograd.Function):
    """Fourth standardized moment of a vector, and whether it is defined."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        mean = weight.mean()
        centred = weight - mean
        power = centred.square()
        second = power.mean()
        third = centred.mul_(power).mean()
        fourth = power.square_().mean()
        # Equal weights deviate only by rounding: 1e-5 of their size, or 1e-8 where fourth powers underflow.
        defined = ~(second <= 1e-10 * mean.square() + 1e-16)
        second = torch.where(defined, second, 1.0)
        ctx.save_for_backward(weight, mean, second, third, fourth)
        ctx.mark_non_differentiable(defined)
        return fourth / second.square(), defined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Tensor:
        weight, mean, second, third, fourth = cast(tuple[Tensor, ...], ctx.saved_tensors)
        # dK / dw = 4 / (n m2^2) * (c^3 - m3 - c * m4 / m2) with c = w - mean
        centred = weight - mean
        slope = centred.square().sub_(fourth / second)
        return centred.mul_(slope).sub_(third).mul_(4 * gradient / (weight.numel() * second.square()))
