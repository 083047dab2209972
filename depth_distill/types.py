"""The glossary: values passed between data, models, losses and metrics, with their shapes and units.

Conventions used everywhere:

* ``depth_m`` is metric depth in metres along the camera's optical axis (z, not ray length); 0 means "no ground truth".
* ``valid`` is a bool mask of the same shape as the depth; True means "use this pixel".
* images are ``(B, 3, H, W)`` RGB, depth maps are ``(B, 1, H, W)``.
* *codes* are the output of a network, ``(B, C, H, W)`` in [0, 1]; a *codec* decodes them to metres on the host.
* ``DepthRange`` is the metric interval that codes span; it is defined in ``codecs``, which does not import torch.
"""

from typing import Literal, NamedTuple

from torch import Tensor

from depth_distill.codecs import DepthRange

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Alignment", "DepthBatch", "DepthRange", "DepthSample", "ResizeMode"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Alignment = Literal["none", "median", "scale_and_shift", "inverse_scale_and_shift"]
"""How relative depth is fitted to the ground truth of its image before it is scored; ``none`` for metric depth.

``median``: one factor (Zhou et al. 2017, section 4.1). ``scale_and_shift``: least squares in depth;
``inverse_scale_and_shift``: in inverse depth (Ranftl et al. 2020, eq. 3).
"""

ResizeMode = Literal["crop", "pad", "stretch"]
"""How an image of another aspect ratio comes to the size of the network.

``crop``: resized until it covers the size, and cut to its middle. ``pad``: resized until it fits, in the middle of bars
of the mean colour. ``stretch``: resized to the size, which distorts it.
"""


class DepthSample(NamedTuple):
    """One image with its ground truth as read by a data set, before any resize or transform."""

    image: Tensor
    """``(3, H, W)`` uint8 RGB."""
    depth_m: Tensor
    """``(1, H, W)`` float32 metres; 0 where there is no ground truth. All zero for image-only data."""
    valid: Tensor
    """``(1, H, W)`` bool; True where the sensor measured a depth, in the depth range or not."""


class DepthBatch(NamedTuple):
    """Input of every task. Before collation, a sample has the same fields without the leading ``B``."""

    image: Tensor
    """``(B, 3, H, W)`` float32 RGB, normalized with the data module's mean and standard deviation."""
    depth_m: Tensor
    """``(B, 1, H, W)`` float32 metres."""
    valid: Tensor
    """``(B, 1, H, W)`` bool; True where depth was measured and lies in the depth range of the run."""
    sample_index: Tensor
    """``(B,)`` int64: index of the sample in its data set."""
