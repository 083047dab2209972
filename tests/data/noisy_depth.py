"""A data set with texture: features, gradients and activation ranges are not those of a flat image."""

import torch

from depth_distill.data.dataset import DepthDataset
from depth_distill.types import DepthSample


class NoisyDepth(DepthDataset):
    """Sample ``i`` is coarse colour noise, seeded by ``seed`` and ``i``; 1 m away where red is 0, 9 m where it is 255.

    Args:
        length: number of samples.
        seed: another one gives other samples.
        size: height and width, multiples of 4.
        has_depth: False is image-only data, as from an ``ImageFolder``.
    """

    def __init__(self, length: int, seed: int = 0, size: tuple[int, int] = (32, 32), has_depth: bool = True) -> None:
        self.length = length
        self.seed = seed
        self.size = size
        self._has_depth = has_depth

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"noise/{self.seed}/{index:03d}"

    def source(self, index: int) -> str:
        return f"NoisyDepth[{self.seed}, {index}]"

    def load(self, index: int) -> DepthSample:
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        coarse = torch.randint(0, 256, (3, self.size[0] // 4, self.size[1] // 4), generator=generator)
        image = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
        depth_m = (1 + 8 * image[:1].float() / 255) * self._has_depth
        return DepthSample(image, depth_m, depth_m > 0)

    @property
    def has_depth(self) -> bool:
        return self._has_depth
