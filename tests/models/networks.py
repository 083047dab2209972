"""A small network that looks trained: its codes are spread over, and beyond, all of [0, 1]."""

import torch
from torch import Tensor, nn

from depth_distill.models import DepthNet, SingleHead


def image(count: int = 2) -> Tensor:
    """Normalized noise, ``(count, 3, 64, 96)``."""
    return torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def spread_network(head=SingleHead, images: Tensor | None = None) -> DepthNet:
    """Batch norm knows the images; the pre-activation has mean and deviation 1/2 on them, of a sigmoid 0 and 2."""
    torch.manual_seed(0)
    network = DepthNet("test_resnet", decoder_channels=(8, 8, 8, 8, 8), head=head)
    images = image() if images is None else images
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    mean, deviation = (0.0, 2.0) if isinstance(network.head.output, nn.Sigmoid) else (0.5, 0.5)
    with torch.no_grad():
        network(images)
        conv = network.eval().head.conv
        before = conv(network.decoder(network.encoder(images)))
        factor = deviation / before.std()
        conv.weight.mul_(factor)
        conv.bias.copy_((conv.bias - before.mean()) * factor + mean)
    return network
