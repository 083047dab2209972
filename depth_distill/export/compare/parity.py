"""Agreement between the codes of a runtime and those of fake quantization."""

from collections.abc import Iterable

import torch
from torch import Tensor

from depth_distill.evaluation import Network


def share_within_one_step(network: Network, other: Network, images: Iterable[Tensor], step: float) -> float:
    """Share of output codes, in [0, 1], that differ by at most one quantization step.

    Args:
        network: maps images to codes.
        other: the network to compare it with.
        images: batches of normalized images ``(B, 3, H, W)``.
        step: scale of the output quantizer.
    """
    near, count = 0, 0
    with torch.inference_mode():
        for batch in images:
            distance = (network(batch).cpu() - other(batch).cpu()).abs()  # a file runs on the CPU
            near += int((distance <= 1.01 * step).sum())  # 1 % for float rounding
            count += distance.numel()
    return near / count
