"""The built-in data set: scenes that are made up and ray cast on demand, with exact depth."""

import numpy as np
import torch
from typing_extensions import override

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.synthetic.layouts import random_scene
from depth_distill.data.synthetic.render import cast
from depth_distill.data.synthetic.shading import shade
from depth_distill.errors import ConfigError
from depth_distill.types import DepthRange, DepthSample

_SMALLEST = 8  # pixels


class SyntheticDepth(DepthDataset):
    """Procedural rooms, halls, corridors and yards with exact depth; needs no files.

    Sample ``index`` depends on ``seed``, ``index`` and ``size`` alone, so it is the same in every worker, order and
    run. Data sets of different seeds share no scene. Depth is taken at the pixel centres; pixels outside of
    ``min_depth_m`` to ``max_depth_m``, such as the sky, have depth 0 and are not valid. The scenes are laid out for
    0.5 to 15 m.

    Args:
        length: number of samples.
        size: image height and width in pixels.
        seed: the collection of scenes; use another one for validation.
        min_depth_m: nearest depth in metres that counts as measured.
        max_depth_m: farthest depth in metres that counts as measured.

    Raises:
        ConfigError: the length is not positive, the size below 8 x 8 pixels, the seed negative, or the range not
            ``0 < min_depth_m < max_depth_m``.
    """

    def __init__(
        self,
        length: int = 2000,
        size: tuple[int, int] = (96, 128),
        seed: int = 0,
        min_depth_m: float = 0.5,
        max_depth_m: float = 15.0,
    ) -> None:
        if length <= 0:
            raise ConfigError(f"SyntheticDepth needs a length of at least 1, got {length}")
        if len(size) != 2 or min(size) < _SMALLEST:
            raise ConfigError(
                f"SyntheticDepth needs size = (height, width) of at least {_SMALLEST} pixels each, got {tuple(size)}"
            )
        if seed < 0:
            raise ConfigError(f"SyntheticDepth needs a seed of at least 0, got {seed}")
        self.length = length
        self.size = (int(size[0]), int(size[1]))
        self.seed = seed
        self.depth_range = DepthRange(min_depth_m, max_depth_m)

    @override
    def __len__(self) -> int:
        return self.length

    @override
    def name(self, index: int) -> str:
        return f"synthetic/{index:06d}"

    @override
    def source(self, index: int) -> str:
        return f"SyntheticDepth(seed={self.seed}, size={self.size})[{index}]"

    @override
    def load(self, index: int) -> DepthSample:
        height, width = self.size
        rng = np.random.default_rng([self.seed, index])
        scene = random_scene(rng, height / width)
        hits = cast(scene, height, width)
        image = torch.from_numpy(shade(scene, hits, rng))
        depth_m = torch.from_numpy(hits.depth_m)[None]
        valid = self.depth_range.contains(depth_m)
        return DepthSample(image, torch.where(valid, depth_m, 0.0), valid)
