"""The glossary: what travels between data, models, losses and metrics, in which shape and unit.

Conventions used everywhere:

* ``depth_m`` is metric depth in metres along the camera's optical axis (z, not ray length); 0 means "no ground truth".
* ``valid`` is a bool mask of the same shape as the depth; True means "use this pixel".
* images are ``(B, 3, H, W)`` RGB, depth maps are ``(B, 1, H, W)``.
* *codes* are what a network ends in, ``(B, C, H, W)`` in [0, 1]; a *codec* turns codes into metres on the host.
* ``DepthRange`` is the metric interval that codes span; it lives in ``codecs``, which imports no torch.
"""

from typing import NamedTuple

from torch import Tensor

from depth_distill.codecs import DepthRange

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "DepthBatch", "DepthRange", "DepthSample"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DepthSample(NamedTuple):
    """One image with its ground truth, as a data set reads it: unresized, untransformed."""

    image: Tensor
    """``(3, H, W)`` uint8 RGB."""
    depth_m: Tensor
    """``(1, H, W)`` float32 metres; 0 where there is none. All zero for image-only data."""
    valid: Tensor
    """``(1, H, W)`` bool; True where the sensor measured a depth (whatever its range)."""


class DepthBatch(NamedTuple):
    """What every task receives. Sample-wise (before collation) the same fields without the leading ``B``."""

    image: Tensor
    """``(B, 3, H, W)`` float32 RGB, normalized with the data module's mean and standard deviation."""
    depth_m: Tensor
    """``(B, 1, H, W)`` float32 metres."""
    valid: Tensor
    """``(B, 1, H, W)`` bool; True where depth was measured and lies in the depth range of the run."""
    sample_index: Tensor
    """``(B,)`` int64: position of the sample in its data set."""
