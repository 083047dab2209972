"""The built-in data set: procedural scenes, ray cast on demand, with exact depth."""

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from typing_extensions import override

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.synthetic.layouts import random_scene
from depth_distill.data.synthetic.render import cast
from depth_distill.data.synthetic.shading import shade
from depth_distill.errors import ConfigError
from depth_distill.types import DepthRange, DepthSample

_SMALLEST = 8  # pixels

Rendered = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""Image ``(3, H, W)`` and depth ``(H, W)`` in metres."""


class SyntheticDepth(DepthDataset):
    """Procedural rooms, halls, corridors and yards with exact depth; needs no files.

    Sample ``index`` depends only on ``seed``, ``index`` and ``size``, so it is the same in every worker, order and
    run. Data sets with different seeds share no scene. Depth is sampled at the pixel centres; pixels outside
    ``min_depth_m`` to ``max_depth_m``, such as the sky, have depth 0 and are not valid. The scenes are laid out for
    0.5 to 15 m.

    Args:
        length: number of samples.
        size: image height and width in pixels.
        seed: seed of the scenes; use another one for validation.
        min_depth_m: nearest depth in metres that counts as measured.
        max_depth_m: farthest depth in metres that counts as measured.
        keep: keep rendered samples in memory, 86 kB each at 96 x 128, so that later epochs need not render them again;
            forked workers share this memory.

    Raises:
        ConfigError: the length is not positive, the size is below 8 x 8 pixels, the seed is negative, or not
            ``0 < min_depth_m < max_depth_m``.
    """

    def __init__(
        self,
        length: int = 2000,
        size: tuple[int, int] = (96, 128),
        seed: int = 0,
        min_depth_m: float = 0.5,
        max_depth_m: float = 15.0,
        keep: bool = False,
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
        self._store = _SharedSamples(length, self.size) if keep else None

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
        image, rendered_m = self._render(index) if self._store is None else self._store.sample(index, self._render)
        depth_m = torch.from_numpy(rendered_m)[None]
        valid = self.depth_range.contains(depth_m)
        return DepthSample(torch.from_numpy(image), torch.where(valid, depth_m, 0.0), valid)

    @override
    def image_size(self, index: int) -> tuple[int, int]:
        return self.size

    def _render(self, index: int) -> Rendered:
        height, width = self.size
        rng = np.random.default_rng([self.seed, index])
        scene = random_scene(rng, height / width)
        hits = cast(scene, height, width)
        return shade(scene, hits, rng), hits.depth_m


class _SharedSamples:
    """Rendered samples in memory that forked processes share; a spawned process starts with an empty store."""

    def __init__(self, length: int, size: tuple[int, int]) -> None:
        self.length, self.size = length, size
        self.images: NDArray[np.uint8] = _shared((length, 3, *size), np.uint8)
        self.depths_m: NDArray[np.float32] = _shared((length, *size), np.float32)
        self.rendered: NDArray[np.bool_] = _shared((length,), np.bool_)

    def sample(self, index: int, render: Callable[[int], Rendered]) -> Rendered:
        """A copy of the image and a view of the depth; rendered unless another call already did."""
        if not self.rendered[index]:
            self.images[index], self.depths_m[index] = render(index)
            self.rendered[index] = True  # last, as other processes may read it at any time
        return self.images[index].copy(), self.depths_m[index]

    def __reduce__(self) -> tuple[type["_SharedSamples"], tuple[int, tuple[int, int]]]:
        return _SharedSamples, (self.length, self.size)


def _shared(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Shared zeros. Unlike torch's shared tensors they use no space in /dev/shm, which is small in containers."""
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)
