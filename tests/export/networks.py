"""Small calibrated networks and smooth images for the export tests."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from depth_distill.quantization.simulate.calibrate import apply_calibration, calibrate
from depth_distill.quantization.simulate.fake_quantize import fake_quantize
from depth_distill.quantization.target.target import load_target


def smooth_images(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Normalized images of coloured blobs, ``(count, 3, H, W)``."""
    coarse = torch.randn(count, 3, size[0] // 4, size[1] // 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bilinear")


def calibrated(graph_module: fx.GraphModule, target: str, batches: Iterable[Tensor]) -> fx.GraphModule:
    """Fake-quantized for a built-in target, with min/max ranges."""
    quantized = fake_quantize(graph_module, load_target(target))
    apply_calibration(calibrate(quantized, batches, progress=False), quantized)
    return quantized


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Random batch norm in every layer, and a head that spreads its codes over [0, 1]."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    nn.init.normal_(network.head.conv.weight, std=0.5)
    return network
