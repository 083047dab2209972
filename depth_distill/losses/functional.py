"""Depth losses as pure functions of prediction, ground truth and valid mask, all ``(B, 1, H, W)``, depth in metres.

Every loss is a mean over the valid pixels of an image, then over the images that have any: it does not depend on batch
size, resolution or the number of measured pixels. A batch without a valid pixel gives 0, with zero gradient. The value
of an invalid pixel (0, NaN, infinity) affects neither the loss nor its gradient.
"""

from typing import Literal

import torch
from torch import Tensor

Space = Literal["linear", "log", "inverse"]

_TINY = 1e-6


def masked_l1(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error in metres: ``mean |p - t|``."""
    return masked_mean((prediction_m - _filled(target_m, valid)).abs(), valid)


def masked_mse(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error in square metres: ``mean (p - t)^2``."""
    return masked_mean((prediction_m - _filled(target_m, valid)).square(), valid)


def log_l1(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error of log depth, ``mean |ln p - ln t|``: close to abs_rel for small errors."""
    return masked_mean(_log_error(prediction_m, target_m, valid).abs(), valid)


def relative_l1(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
    """Mean relative error, ``mean |p - t| / t``: the metric abs_rel itself, except for its depth cap."""
    target_m = _filled(target_m, valid).clamp(min=_TINY)
    return masked_mean((prediction_m - target_m).abs() / target_m, valid)


def silog(prediction_m: Tensor, target_m: Tensor, valid: Tensor, variance_focus: float = 0.85) -> Tensor:
    """Scale-invariant log error, ``sqrt(mean d^2 - f (mean d)^2)`` with ``d = ln p - ln t``.

    Eigen et al. 2014, eq. 4, in the square-root form of Lee et al. 2019 (BTS, eq. 5) without its factor of 10. With
    ``f = 1`` the loss ignores a wrong scale; with ``f = 0`` it is the RMS log error.

    Raises:
        ValueError: ``variance_focus`` is outside [0, 1].
    """
    if not 0 <= variance_focus <= 1:
        raise ValueError(f"variance_focus must lie in [0, 1], got {variance_focus}")
    error = _log_error(prediction_m, target_m, valid)
    mean, has_depth = _means(error, valid)
    mean_square, _ = _means(error.square(), valid)
    variance = mean_square - variance_focus * mean.square()
    # The root has no gradient at 0: the loss of a perfect image is 0 with zero gradient.
    positive = variance > _TINY**2
    root = torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0 * variance)
    return _mean_of_images(root, has_depth)


def berhu(prediction_m: Tensor, target_m: Tensor, valid: Tensor, threshold: float = 0.2) -> Tensor:
    """Reverse Huber: L1 up to ``c``, then ``(e^2 + c^2) / 2c``, where ``c`` is ``threshold`` times the largest error.

    Laina et al. 2016, eq. 2, where ``c`` is 1/5 of the largest error of the batch. Here it is taken per image, so that
    the loss of an image does not depend on the rest of its batch. ``c`` carries no gradient.

    Raises:
        ValueError: ``threshold`` is outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], as a share of the largest error, got {threshold}")
    error = torch.where(valid, (prediction_m - _filled(target_m, valid)).abs(), 0.0)
    c = (threshold * error.detach().amax(dim=(1, 2, 3), keepdim=True)).clamp(min=_TINY)
    return masked_mean(torch.where(error <= c, error, (error.square() + c.square()) / (2 * c)), valid)


def gradient_matching(
    prediction_m: Tensor, target_m: Tensor, valid: Tensor, scales: int = 4, space: Literal["linear", "log"] = "log"
) -> Tensor:
    """Mean difference of spatial gradients, summed over scales: ``sum_k mean(|dx R_k| + |dy R_k|)``.

    ``R_k`` is the error map at every 2^k-th pixel, in metres or in log depth. Li & Snavely 2018, eq. 4; Ranftl et al.
    2020 (MiDaS), eq. 11. A difference counts if both of its pixels are valid.

    Raises:
        ValueError: ``scales`` is below 1, or ``space`` is unknown.
    """
    if scales < 1:
        raise ValueError(f"scales must be at least 1, got {scales}")
    if space not in ("linear", "log"):
        raise ValueError(f"space must be linear or log, got {space!r}")
    if space == "log":
        error = _log_error(prediction_m, target_m, valid)
    else:
        error = torch.where(valid, prediction_m - _filled(target_m, valid), 0.0)
    per_image = error.new_zeros(len(error))
    for step in (2**k for k in range(scales)):
        e, v = error[..., ::step, ::step], valid[..., ::step, ::step]
        across, _ = _means((e[..., :, 1:] - e[..., :, :-1]).abs(), v[..., :, 1:] & v[..., :, :-1])
        down, _ = _means((e[..., 1:, :] - e[..., :-1, :]).abs(), v[..., 1:, :] & v[..., :-1, :])
        per_image = per_image + across + down
    return _mean_of_images(per_image, valid.flatten(1).any(dim=1))


def scale_and_shift_invariant(
    prediction_m: Tensor, target_m: Tensor, valid: Tensor, space: Space = "inverse"
) -> Tensor:
    """Mean absolute error after the best scale and shift per image: ``mean |s p' + b - t'| / mean |t' - mean t'|``.

    ``p'`` and ``t'`` are depth in ``space``; ``s`` and ``b`` are the closed-form least-squares solution (Ranftl et al.
    2020, eq. 4), and pass gradient. Dividing by the spread of the ground truth makes the loss dimensionless, so that
    near and far scenes weigh the same.
    """
    p, t = (_in_space(x, space) for x in (prediction_m.clamp(min=_TINY), _filled(target_m, valid).clamp(min=_TINY)))
    p, t = torch.where(valid, p, 0.0), torch.where(valid, t, 0.0)
    (mean_p, has_depth), (mean_t, _) = _means(p, valid), _means(t, valid)
    centred_p = torch.where(valid, p - _per_image(mean_p), 0.0)
    centred_t = torch.where(valid, t - _per_image(mean_t), 0.0)
    variance, _ = _means(centred_p.square(), valid)
    covariance, _ = _means(centred_p * centred_t, valid)
    scale = covariance / variance.clamp(min=_TINY**2)
    residual, _ = _means((_per_image(scale) * centred_p - centred_t).abs(), valid)
    spread, _ = _means(centred_t.abs(), valid)
    return _mean_of_images(residual / spread.clamp(min=_TINY), has_depth)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid pixels of an image, then over the images that have any; both ``(B, 1, H, W)``."""
    return _mean_of_images(*_means(values, valid))


def _filled(target_m: Tensor, valid: Tensor) -> Tensor:
    """Ground truth with 1 m, a harmless value, at invalid pixels."""
    return torch.where(valid, target_m, 1.0)


def _log_error(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
    """``ln p - ln t``, 0 where invalid."""
    prediction_m = torch.where(valid, prediction_m, 1.0).clamp(min=_TINY)
    return prediction_m.log() - _filled(target_m, valid).clamp(min=_TINY).log()


def _in_space(depth_m: Tensor, space: Space) -> Tensor:
    if space == "inverse":
        return 1 / depth_m
    if space == "log":
        return depth_m.log()
    if space == "linear":
        return depth_m
    raise ValueError(f"space must be linear, log or inverse, got {space!r}")


def _means(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the valid pixels per image ``(B,)``, 0 without any, and whether there are any."""
    count = valid.flatten(1).sum(dim=1)
    total = torch.where(valid, x, 0.0).flatten(1).sum(dim=1)
    return total / count.clamp(min=1), count > 0


def _mean_of_images(per_image: Tensor, has_depth: Tensor) -> Tensor:
    return torch.where(has_depth, per_image, 0.0 * per_image).sum() / has_depth.sum().clamp(min=1)


def _per_image(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1)
