"""Penalties on a network's weights, so that one INT8 scale per tensor fits them.

They see convolutions, transposed convolutions and linear layers, quantized or not. Fold batch norm first: before, it
rescales the channels of a weight at will, and the weight that gets quantized is another one.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

# A channel 10^4 times below its layer's largest is 80 times below one INT8 step (1/127): dead, and without a logarithm
# whose gradient, 1/|w|, would drown all others.
_DEAD = 1e-4


class ChannelRangePenalty(nn.Module):
    """Pulls the largest weights of a layer's channels together: mean over layers of the variance of ``ln max |w_c|``.

    A pure number that no scaling of a layer changes; 0 where all channels of each layer have the same range, the state
    that equalization (Nagel et al. 2019, section 4.1) reaches by rescaling and that per-tensor weights need. The square
    root is the typical spread: 1 means a factor of e. A layer of one channel counts, as 0. Channels 10^4 times below
    their layer's largest count as dead and are left out.

    The largest weight is taken as the norm of order 8, whose gradient goes to all weights near the largest (one at 3/4
    of it gets 0.75^7 = 13 %), and not to a single one that hands over to the next step after step. Its excess over the
    true maximum, a factor of n^(1/8) at most, is much the same for the channels of a layer and cancels in the variance.

    Args:
        inputs: add the variance over input channels, which an equalization of the layer before can trade for its own.
    """

    def __init__(self, inputs: bool = False) -> None:
        super().__init__()
        self.inputs = inputs

    def forward(self, network: nn.Module) -> Tensor:
        """A scalar.

        Raises:
            ValueError: a network without a layer.
        """
        penalties = []
        for layer in _layers(network):
            penalties.append(_log_range_variance(layer, of_inputs=False))
            if self.inputs:
                penalties[-1] = penalties[-1] + _log_range_variance(layer, of_inputs=True)
        return torch.stack(penalties).mean()


class KurtosisPenalty(nn.Module):
    """KURE: mean over layers of ``(kurtosis(w) - target)^2``, with ``kurtosis = mean ((w - mean w) / std w)^4``.

    Shkolnik et al. 2020. A pure number that no scale or shift of a layer changes. The kurtosis is 3 for a normal
    distribution and 1.8 for a uniform one, which makes the best use of evenly spaced codes. A layer whose weights are
    all alike has none and counts as 0.
    """

    def __init__(self, target: float = 1.8) -> None:
        super().__init__()
        self.target = target

    def forward(self, network: nn.Module) -> Tensor:
        """A scalar.

        Raises:
            ValueError: a network without a layer.
        """
        excess = []
        for layer in _layers(network):
            kurtosis, defined = _Kurtosis.apply(_wide(layer.weight).flatten())
            excess.append(torch.where(defined, kurtosis - self.target, 0.0))
        return torch.stack(excess).square().mean()


def _layers(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d | nn.Linear]:
    layers = [module for module in network.modules() if isinstance(module, _LAYERS)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no convolution, transposed convolution or linear layer")
    return layers


def _wide(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()


def _log_range_variance(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, of_inputs: bool) -> Tensor:
    weight = _wide(layer.weight)
    first, second = weight.shape[:2]
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    # A transposed convolution's weight is (inputs, outputs / groups, ...), all others' (outputs, inputs / groups, ...).
    if of_inputs == isinstance(layer, nn.ConvTranspose2d):
        log_range, alive = _LogRange.apply(weight.flatten(1), (1,))
    else:
        log_range, alive = _LogRange.apply(weight.reshape(groups, first // groups, second, -1), (1, 3))
    count = alive.sum().clamp(min=1)
    mean = torch.where(alive, log_range, 0.0).sum() / count
    return torch.where(alive, (log_range - mean).square(), 0.0).sum() / count


# Both functions below write out their gradients. Autograd would keep every intermediate of 14 M weights, and on a CPU
# that memory costs more than the arithmetic: a call took 2 to 3 times as long.


class _LogRange(torch.autograd.Function):
    """Logarithm of each channel's norm of order 8 over ``dims``, and whether the channel is alive."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        # One dimension after the other: over two that are apart, torch takes 7 times as long.
        peak = weight.abs()
        for dim in dims:
            peak = peak.amax(dim, keepdim=True)
        alive = ~(peak <= _DEAD * peak.amax())  # written so that NaN is alive, and seen
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
    """Fourth standardized moment of a vector, and whether it has one."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        mean = weight.mean()
        centred = weight - mean
        power = centred.square()
        second = power.mean()
        third = centred.mul_(power).mean()
        fourth = power.square_().mean()
        # What is left of equal weights is their rounding: 1e-5 of their size, or 1e-8 where fourth powers underflow.
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
