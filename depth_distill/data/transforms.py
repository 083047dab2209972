"""Joint transforms of an image, its depth and its valid mask.

They build on torchvision.transforms.v2: images are wrapped as ``tv_tensors.Image``, depth and valid as
``tv_tensors.Mask``, so that every v2 transform (flip, crop, colour jitter, ...) handles each by its type and never
interpolates depth. Only what v2 lacks is implemented here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from depth_distill.data.placement import Placement
from depth_distill.errors import ConfigError, building
from depth_distill.types import IMAGENET_MEAN, DepthSample, ResizeMode


class JointResize(nn.Module):
    """Resize a sample to ``(height, width)``.

    The image is resized bilinearly with antialiasing. Depth and valid use nearest-neighbour sampling, so a valid pixel
    is never averaged with an invalid one, nor a foreground depth with a background depth. Image and depth may differ in
    size, as where an image is decoded smaller than it is; the aspect ratio is then that of the depth.

    Args:
        size: (height, width) of the result.
        mode: what is done where the aspect ratio is another; bars of ``pad`` have no depth and are not valid.
        mean: mean of red, green and blue, in [0, 1]: the colour of the bars, which normalization makes 0.

    Raises:
        ConfigError: there are bars, and the mean is not in [0, 1].
    """

    def __init__(self, size: tuple[int, int], mode: ResizeMode = "crop", mean: Sequence[float] = IMAGENET_MEAN) -> None:
        super().__init__()
        self.size: tuple[int, int] = (size[0], size[1])
        self.mode: ResizeMode = mode
        self.bars = bar_colour(mean) if mode == "pad" else torch.zeros(3, 1, 1, dtype=torch.uint8)

    def forward(self, sample: DepthSample) -> DepthSample:
        """The resized sample; unchanged if it already has that size."""
        height, width = sample.depth_m.shape[-2:]
        if tuple(sample.image.shape[-2:]) == (height, width) == self.size:
            return sample
        placement = Placement.of((height, width), self.size, self.mode)
        inner, nothing = list(placement.inner), torch.zeros(1, 1, 1)
        return DepthSample(
            image=placement.place(F.resize(sample.image, inner, antialias=True), self.bars),
            depth_m=placement.place(_resize_nearest(sample.depth_m, inner), nothing),
            valid=placement.place(_resize_nearest(sample.valid, inner), nothing),
        )


class RandomZoom(v2.Transform):
    """Crop a random window and enlarge it to the original size, as a longer lens would.

    Under an unchanged focal length, an object magnified ``z`` times is ``z`` times nearer (pinhole model,
    ``size_px = focal_px * size_m / depth_m``), so depth is divided by ``z``. Without that correction the network would
    see objects at two scales for the same depth.

    Args:
        max_zoom: ``z`` is drawn uniformly from [1, max_zoom].
        p: probability of zooming.

    Raises:
        ConfigError: ``max_zoom`` is below 1.
    """

    def __init__(self, max_zoom: float = 1.3, p: float = 0.5) -> None:
        super().__init__()
        if max_zoom < 1:
            raise ConfigError(f"max_zoom must be at least 1, got {max_zoom}")
        self.max_zoom = max_zoom
        self.p = p

    def forward(self, image: Tensor, depth_m: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The zoomed image, depth and valid mask."""
        if torch.rand(()) >= self.p:
            return image, depth_m, valid
        height, width = image.shape[-2:]
        zoom = 1 + (self.max_zoom - 1) * torch.rand(()).item()
        window = [max(1, round(height / zoom)), max(1, round(width / zoom))]
        top = int(torch.randint(0, height - window[0] + 1, ()))
        left = int(torch.randint(0, width - window[1] + 1, ()))
        image, depth_m, valid = (F.crop(x, top, left, *window) for x in (image, depth_m, valid))
        size = [height, width]
        return (
            F.resize(image, size, antialias=True),
            tv_tensors.wrap(_resize_nearest(depth_m, size) / zoom, like=depth_m),
            _resize_nearest(valid, size),
        )


class Augment(nn.Module):
    """Apply v2 transforms to a sample in sequence, all drawing from torch's generator.

    Raises:
        ConfigError: when it is called, where one of them is not a transform of image, depth and mask.
    """

    def __init__(self, transforms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, sample: DepthSample) -> DepthSample:
        """The transformed sample."""
        maps = (tv_tensors.Image(sample.image), tv_tensors.Mask(sample.depth_m), tv_tensors.Mask(sample.valid))
        for transform in self.transforms:
            maps = _transformed(transform, maps)
        return DepthSample(*(x.as_subclass(Tensor) for x in maps))


class Normalize(nn.Module):
    """Convert uint8 RGB to float32 with zero mean and unit variance per channel, and back."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean = list(mean)
        self.std = list(std)

    def forward(self, image: Tensor) -> Tensor:
        """Normalize ``(..., 3, H, W)`` uint8 to float32."""
        return F.normalize(F.to_dtype(image, torch.float32, scale=True), self.mean, self.std)

    def inverse(self, image: Tensor) -> Tensor:
        """Convert normalized ``(..., 3, H, W)`` float32 back to [0, 1]."""
        shape = (3, 1, 1)
        return (image * image.new_tensor(self.std).view(shape) + image.new_tensor(self.mean).view(shape)).clamp(0, 1)


def bar_colour(mean: Sequence[float]) -> Tensor:
    """The colour of the bars beside a padded image, ``(3, 1, 1)`` uint8, from a mean in [0, 1] per channel.

    Raises:
        ConfigError: the mean is not in [0, 1].
    """
    if not all(0 <= each <= 1 for each in mean):
        raise ConfigError(
            f"data.image_mean: received {list(mean)}, expected numbers in [0, 1], which data.resize pad fills bars with"
        )
    return torch.tensor([round(255 * each) for each in mean], dtype=torch.uint8).view(3, 1, 1)


def _transformed(transform: nn.Module, maps: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    name = type(transform).__name__
    with building(f"data.augment: a view of image, depth and mask by {name}"):
        found: tuple[Tensor, Tensor, Tensor] = transform(*maps)
    is_good = isinstance(found, tuple) and len(found) == len(maps) and all(isinstance(x, Tensor) for x in found)
    if not is_good or len({x.shape[-2:] for x in found}) != 1:
        raise ConfigError(
            f"data.augment: {name} returns something else than an image, a depth map and a mask of one size; expected "
            "a transform of torchvision.transforms.v2"
        )
    return found


def _resize_nearest(x: Tensor, size: list[int]) -> Tensor:
    return F.resize_image(x, size, interpolation=InterpolationMode.NEAREST_EXACT)
