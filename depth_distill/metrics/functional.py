"""Depth metrics per image, as the field defines them (Eigen et al. 2014; KITTI and NYU benchmarks)."""

import math

import torch
from torch import Tensor

METRIC_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
"""In the order in which they are computed and shown. Higher is better for the deltas, lower for the others."""


def depth_metrics_per_image(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
    """Metrics per image over its valid pixels, or over several sets of pixels at once.

    With ``p`` prediction, ``t`` ground truth, ``d = ln p - ln t``: abs_rel ``mean |p - t| / t``; sq_rel
    ``mean (p - t)^2 / t`` [m]; rmse ``sqrt mean (p - t)^2`` [m]; rmse_log ``sqrt mean d^2``; log10
    ``mean |log10 p - log10 t|``; silog ``100 sqrt(mean d^2 - (mean d)^2)`` (KITTI's); delta_k the share of pixels with
    ``max(p/t, t/p) < 1.25^k``.

    Args:
        prediction_m: ``(B, 1, H, W)`` metres, positive.
        target_m: ``(B, 1, H, W)`` metres, positive where valid.
        valid: ``(B, K, H, W)`` bool: K sets of pixels per image, such as depth bands.

    Returns:
        ``(B, 9 K)`` float64, set after set, each in the order of ``METRIC_NAMES``; NaN for a set without a pixel.
        Errors are infinite where the prediction is NaN at a pixel of any set, as averages skip NaN.
    """
    used = valid.any(dim=1, keepdim=True)
    p, t = (torch.where(used, x, 1.0).flatten(1).double() for x in (prediction_m, target_m))
    error, log_error = p - t, p.log() - t.log()
    square, square_log = error.square(), log_error.square()
    ratio = torch.maximum(p / t, t / p)
    terms = [error.abs() / t, square / t, square, square_log, log_error.abs(), log_error]
    terms += [(ratio < 1.25**k).double() for k in (1, 2, 3)]
    # One matrix product sums every term over every set: computing the terms costs more than the sums.
    sets = valid.flatten(2).double()
    counts = sets.sum(dim=-1, keepdim=True)
    means = sets @ torch.stack(terms, dim=-1) / counts  # 0 / 0 gives the documented NaN
    abs_rel, sq_rel, mean_square, mean_square_log, abs_log, mean_log, *deltas = means.unbind(dim=-1)
    # Rounding can make a perfect image slightly negative; NaN stays NaN.
    silog = 100 * (mean_square_log - mean_log.square()).clamp(min=0).sqrt()
    log10 = abs_log / math.log(10)
    metrics = [abs_rel, sq_rel, mean_square.sqrt(), mean_square_log.sqrt(), log10, silog, *deltas]
    rows = torch.stack(metrics, dim=-1)
    return torch.where(rows.isnan() & (counts > 0), math.inf, rows).flatten(1)
