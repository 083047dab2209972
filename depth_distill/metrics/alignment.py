"""Alignment of relative depth to ground truth, image by image, before it is scored."""

import torch
from torch import Tensor

from depth_distill.types import Alignment, DepthRange


def align(depth_m: Tensor, target_m: Tensor, valid: Tensor, how: Alignment, depth_range: DepthRange) -> Tensor:
    """Depth fitted to the ground truth of its image.

    Args:
        depth_m: relative depth ``(B, 1, H, W)``, positive.
        target_m: ground truth ``(B, 1, H, W)`` in metres.
        valid: ``(B, 1, H, W)`` bool. An image without a valid pixel stays as it is.
        how: see :data:`~depth_distill.types.Alignment`.
        depth_range: aligned depth is clipped to it.
    """
    if how == "none":
        return depth_m
    images = [_align(*image, how, depth_range) for image in zip(depth_m, target_m, valid, strict=True)]
    return torch.stack(images)


def _align(depth_m: Tensor, target_m: Tensor, valid: Tensor, how: Alignment, depth_range: DepthRange) -> Tensor:
    if not bool(valid.any()):
        return depth_m
    found, true = depth_m[valid].double(), target_m[valid].double()
    if how == "median":
        return (depth_m * (true.median() / found.median())).clamp(depth_range.min_m, depth_range.max_m)
    inverse = how == "inverse_scale_and_shift"
    if inverse:
        found, true = 1 / found, 1 / true
    # Closed form of the least-squares line, centred for precision.
    centred = found - found.mean()
    spread = centred.square().sum()
    scale = (centred * true).sum() / spread if spread > 0 else torch.zeros_like(spread)
    shift = true.mean() - scale * found.mean()
    if not inverse:
        return (depth_m.double() * scale + shift).clamp(depth_range.min_m, depth_range.max_m).to(depth_m.dtype)
    line = (scale / depth_m.double() + shift).clamp(1 / depth_range.max_m, 1 / depth_range.min_m)
    return (1 / line).to(depth_m.dtype)
