"""Rescale activations channel by channel without changing the function of a network."""

import copy
from typing import cast

import torch
from torch import Tensor, fx, nn

from depth_distill.quantization.graph.channel_groups import PINNED, ChannelGroups


def rescale(graph_module: fx.GraphModule, groups: ChannelGroups, scales: Tensor) -> fx.GraphModule:
    """A copy of the network whose activations are multiplied by the scale of their group; the output is the same.

    Output rows and biases of the convolutions are multiplied, input columns divided, in float64 (Nagel et al. 2019,
    eq. 7).

    Args:
        graph_module: the network that ``groups`` belongs to.
        groups: channel groups of the network, see
            :func:`~depth_distill.quantization.graph.channel_groups.channel_groups`.
        scales: factor per group, ``(groups.count,)``.

    Raises:
        ValueError: a factor is not positive and finite, or that of the pinned group is not 1.
    """
    if scales.shape != (groups.count,) or not bool((scales > 0).all() and scales.isfinite().all()):
        raise ValueError(f"expected {groups.count} positive and finite scales, received {scales}")
    if scales[PINNED] != 1:
        raise ValueError(f"the scale of the pinned group, number {PINNED}, must be 1, received {scales[PINNED]}")
    rescaled = copy.deepcopy(graph_module)
    for name, channels in groups.layers.items():
        layer = cast(nn.Conv2d | nn.ConvTranspose2d, rescaled.get_submodule(name))
        inputs = scales.double()[channels.inputs].to(layer.weight.device).view(layer.groups, 1, -1, 1)
        outputs = scales.double()[channels.outputs].to(layer.weight.device)
        with torch.no_grad():
            matrix = as_matrix(layer).double() * outputs.view(layer.groups, -1, 1, 1) / inputs
            if isinstance(layer, nn.ConvTranspose2d):
                matrix = matrix.transpose(1, 2)
            layer.weight.copy_(matrix.reshape(layer.weight.shape))
            if layer.bias is not None:
                layer.bias.copy_(layer.bias.double() * outputs)
    return rescaled


def as_matrix(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """The weight of a convolution as ``(groups, out / groups, in / groups, kh * kw)``, without gradients."""
    weight = layer.weight.detach().flatten(2)
    matrix = weight.view(layer.groups, -1, *weight.shape[1:])
    # A transposed convolution holds (in, out / groups, kh, kw).
    return matrix.transpose(1, 2) if isinstance(layer, nn.ConvTranspose2d) else matrix
