"""Spread the channel scales of a network to make it harder to quantize per tensor, without changing its function."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import fx

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.channel_groups import PINNED, channel_groups
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.passes.rescale import rescale
from depth_distill.quantization.target.validated import FieldError

_LARGEST_SIGMA = 4.0


@dataclass(frozen=True)
class PerturbedNetwork:
    """A network with perturbed channel scales.

    Attributes:
        graph_module: the network.
        scaled_channels: number of output channels of convolutions that were scaled.
        pinned_channels: number of those that could not be scaled.
        pinned: reason why channels could not be scaled, by layer.
    """

    graph_module: fx.GraphModule
    scaled_channels: int
    pinned_channels: int
    pinned: Mapping[str, str]


@dataclass(frozen=True)
class Stress(Pass):
    """Make a network harder to quantize per tensor, for experiments; see :func:`perturb_channel_scales`.

    Args:
        sigma: standard deviation of the logarithm of the channel scales.
        seed: seed of the random scales.
    """

    name: ClassVar[str] = "stress"
    values_only: ClassVar[bool] = True

    sigma: float
    seed: Literal[0] | int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma <= 0:
            raise FieldError(f"received {self.sigma}, expected a positive number", "sigma")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`perturb_channel_scales`."""
        found = perturb_channel_scales(graph, self.sigma, self.seed)
        summary = f"scales of {found.scaled_channels} channels spread by sigma {self.sigma:g}; an artificial stress"
        return PassResult(found.graph_module, PassReport(summary, {"scaled_channels": found.scaled_channels}))


def perturb_channel_scales(graph_module: fx.GraphModule, sigma: float, seed: int = 0) -> PerturbedNetwork:
    """Spread channel ranges: scale each group by ``exp(sigma N(0, 1))``, which its consumers undo exactly.

    The float function stays the same up to rounding. On a ResNet18 U-Net, per-tensor INT8 multiplies abs_rel by 3 at
    sigma 0.8. Channels that cannot be scaled exactly keep their scale and are reported.

    Args:
        graph_module: a traced network without batch norm.
        sigma: standard deviation of the log scale, > 0.
        seed: seed of the random scales.

    Raises:
        ConfigError: sigma is not a positive number, a batch norm is not folded, or no channel can be scaled; the
            message then has the reason for each layer.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"sigma must be a positive number, received {sigma}")
    groups = channel_groups(graph_module)
    pinned = sum(int((channels.outputs == PINNED).sum()) for channels in groups.layers.values())
    scaled = sum(len(channels.outputs) for channels in groups.layers.values()) - pinned
    if not scaled:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in groups.pinned.items())
        raise ConfigError(f"no channel can be scaled without changing the function: {reasons or 'no convolution'}")
    noise = torch.randn(groups.count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scales = torch.exp(sigma * noise)
    scales[PINNED] = 1.0
    return PerturbedNetwork(rescale(graph_module, groups, scales), scaled, pinned, groups.pinned)


def find_sigma(
    graph_module: fx.GraphModule,
    loss_ratio: Callable[[fx.GraphModule], float],
    wanted: float,
    seed: int = 0,
    tolerance: float = 0.02,
    max_trials: int = 12,
) -> float:
    """The sigma at which quantization loses a wanted factor of accuracy, by bisection.

    Args:
        graph_module: a traced network without batch norm.
        loss_ratio: error of a network after quantization over that before; it mostly grows with sigma.
        wanted: ratio to reach.
        seed: seed of the random scales, the same for every sigma.
        tolerance: relative distance from ``wanted`` at which the search ends.
        max_trials: maximum number of evaluations of ``loss_ratio``; if none is within the tolerance, the sigma of the
            nearest ratio is returned.

    Raises:
        ConfigError: no sigma up to 4 reaches the ratio, or see :func:`perturb_channel_scales`.
    """
    low, high = 0.0, _LARGEST_SIGMA
    best, nearest = math.nan, math.inf
    for _ in range(max_trials):
        sigma = (low + high) / 2
        ratio = loss_ratio(perturb_channel_scales(graph_module, sigma, seed).graph_module)
        distance = abs(math.log(ratio / wanted))
        if distance < nearest:
            best, nearest = sigma, distance
        if distance <= math.log1p(tolerance):
            break
        low, high = (sigma, high) if ratio < wanted else (low, sigma)
    if high == _LARGEST_SIGMA and nearest > math.log1p(tolerance):
        raise ConfigError(
            f"no sigma up to {_LARGEST_SIGMA:g} makes the error after quantization {wanted:g} times as large; the "
            f"nearest is sigma {best:g}"
        )
    return best
