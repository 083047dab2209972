"""Depth metrics of single images, as the field defines them (Eigen et al. 2014; KITTI and NYU benchmarks)."""

import torch
from torch import Tensor

METRIC_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
"""In the order in which they are computed and shown. Of the deltas more is better, of the others less."""


def depth_metrics_per_image(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
    """Metrics of each image over its valid pixels.

    With ``p`` prediction, ``t`` ground truth, ``d = ln p - ln t``: abs_rel ``mean |p - t| / t``; sq_rel
    ``mean (p - t)^2 / t`` [m]; rmse ``sqrt mean (p - t)^2`` [m]; rmse_log ``sqrt mean d^2``; log10
    ``mean |log10 p - log10 t|``; silog ``100 sqrt(mean d^2 - (mean d)^2)`` (KITTI's); delta_k the share of pixels with
    ``max(p/t, t/p) < 1.25^k``.

    Args:
        prediction_m: ``(B, 1, H, W)`` metres, positive.
        target_m: ``(B, 1, H, W)`` metres, positive where valid.
        valid: ``(B, 1, H, W)`` bool.

    Returns:
        ``(B, 9)`` float64 in the order of ``METRIC_NAMES``; NaN for an image without a valid pixel.
    """
    p, t = (torch.where(valid, x, 1.0).flatten(1).double() for x in (prediction_m, target_m))
    mask = valid.flatten(1)
    count = mask.sum(dim=1)

    def mean(x: Tensor) -> Tensor:
        return torch.where(mask, x, 0.0).sum(dim=1) / count  # 0 / 0 is the NaN that is promised

    error, log_error = p - t, p.log() - t.log()
    ratio = torch.maximum(p / t, t / p)
    mean_square_log = mean(log_error.square())
    return torch.stack(
        [
            mean(error.abs() / t),
            mean(error.square() / t),
            mean(error.square()).sqrt(),
            mean_square_log.sqrt(),
            mean(log_error.abs()) / torch.tensor(10.0, dtype=p.dtype).log(),
            # Rounding can leave a perfect image a hair below zero; NaN stays NaN.
            100 * (mean_square_log - mean(log_error).square()).clamp(min=0).sqrt(),
            *(mean((ratio < 1.25**k).double()) for k in (1, 2, 3)),
        ],
        dim=1,
    )
