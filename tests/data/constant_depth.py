"""A minimal data set: one grey level and one depth per sample."""

import torch

from depth_distill.data.dataset import DepthDataset
from depth_distill.types import DepthSample


class ConstantDepth(DepthDataset):
    """Sample ``i`` is a grey image of level ``i``, ``1 + i / 10`` metres away."""

    def __init__(self, length: int, size: tuple[int, int] = (32, 32), depth_m: float | None = None) -> None:
        self.length = length
        self.size = size
        self.depth_m = depth_m

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"constant/{index:03d}"

    def source(self, index: int) -> str:
        return f"ConstantDepth[{index}]"

    def load(self, index: int) -> DepthSample:
        depth_m = torch.full((1, *self.size), 1 + index / 10 if self.depth_m is None else self.depth_m)
        return DepthSample(torch.full((3, *self.size), index, dtype=torch.uint8), depth_m, depth_m > 0)
