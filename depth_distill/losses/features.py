"""Losses between a student's and a teacher's feature map, as pure functions of two maps ``(B, C, h, w)``.

No gradient reaches the teacher. Statistics are computed in at least float32, whatever the dtype of the maps. Every loss
is a mean over the samples of a batch, and none changes if every value is repeated 2 x 2 times (nearest upsampling of
both maps), so a weight tuned at one batch size and resolution is valid at another.

If the student's map has another height or width, the teacher's is resized to it: by adaptive average pooling if the
student's is smaller, by bilinear interpolation otherwise.

Raises:
    ValueError: the maps are not ``(B, C, h, w)``, or differ in batch size or, except for attention, in channels.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Distribution = Literal["tensor", "channel", "space"]
Unit = Literal["sample", "channel"]

_TINY = 1e-6
_LEAST_RELATIVE_POWER = 1e-3


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error over all values, ``mean (s - t)^2``, in squared units of the feature."""
    s, t = _pair(student, teacher)
    return (s - t).square().mean()


def fitnets_hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared error, ``mean (s - t)^2 / 2``, of a student map adapted by a 1x1 regressor.

    Romero et al. 2015 (FitNets), eq. 3, which is a squared norm: a sum over the map. It is a mean here, because that
    sum grows with resolution and channels. The caller applies the regressor.
    """
    return 0.5 * feature_mse(student, teacher)


def feature_normalized_mse(student: Tensor, teacher: Tensor, per: Unit = "sample") -> Tensor:
    """Relative squared error per sample, ``mean (s - t)^2 / mean t^2``, averaged over samples; dimensionless.

    It is 1 / SQNR, so layers whose features differ in scale can share a weight. The divisor is at least 1e-6, a root
    mean square of 0.001, for maps that are zero everywhere.

    ``per="channel"`` takes the ratio per channel of a sample and then the mean, so that in a layer whose channels have
    very unequal ranges the small ones, which the next layer multiplies by large weights, count as much as the large.
    There the divisor is at least 1e-3 of the sample's mean: otherwise a channel that is zero in one image would have an
    arbitrary relative error.

    Raises:
        ValueError: ``per`` is unknown.
    """
    if per not in get_args(Unit):
        raise ValueError(f"per must be one of {', '.join(get_args(Unit))}, got {per!r}")
    s, t = _pair(student, teacher)
    power = t.square().flatten(1).mean(1).clamp(min=_TINY)
    if per == "sample":
        return ((s - t).square().flatten(1).mean(1) / power).mean()
    powers = torch.maximum(t.square().flatten(2).mean(2), _LEAST_RELATIVE_POWER * power[:, None])
    return ((s - t).square().flatten(2).mean(2) / powers).mean()


def feature_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cos(s, t)`` over the channels of each position, averaged over positions and samples; in [0, 2].

    Computed as ``|s/|s| - t/|t||^2 / 2``, which is equal but has no cancellation near 0. A vector of length 1e-6 or
    less has no direction: the loss of a position is 0 if neither vector has one and 1/2 if one of them has, and no
    gradient reaches a student without a direction.
    """
    s, t = _pair(student, teacher)
    return 0.5 * (_direction(s, 1, _TINY) - _direction(t, 1, _TINY)).square().sum(1).mean()


def feature_statistics(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of the mean and standard deviation over space per channel, averaged over channels and samples.

    ``mean (mu_s - mu_t)^2 + mean (sigma_s - sigma_t)^2``, in squared units of the feature. These are the statistics of
    Huang & Belongie 2017 (AdaIN), eq. 13, compared by squares instead of norms. ``sigma`` divides by the number of
    positions n, not by n - 1, which would depend on resolution.
    """
    s, t = _pair(student, teacher)
    return _statistics(s, t)


def feature_statistics_kl(
    student: Tensor, teacher: Tensor, kl_weight: float = 0.1, over: Distribution = "tensor"
) -> Tensor:
    """Mean, standard deviation and KL divergence: ``feature_statistics + kl_weight * KL(t || s)``.

    ``over`` selects what one softmax distribution spans; a divergence is summed over one distribution, then averaged
    over all distributions:

    - ``tensor``: the whole map, all C*h*w values of a sample: ``kl_div(log_softmax(s.flatten(1), 1),
      softmax(t.flatten(1), 1), reduction="batchmean")``. Channels with large values hold most of its mass.
    - ``channel``: the channels at one position.
    - ``space``: the positions of one channel, as in :func:`channel_wise_kl` at temperature 1. It is only invariant to
      an offset per channel, which the means detect.

    None of them is divided by the number of values or its logarithm, since that would make it depend on resolution:
    with every value repeated k times, each of p and q is divided by k, their ratio stays, and so does
    ``sum p ln(p / q)``. For a small error d = s - t it is half the variance of d under the teacher's distribution.

    Raises:
        ValueError: ``over`` is unknown.
    """
    s, t = _pair(student, teacher)
    return _statistics(s, t) + kl_weight * _softmax_kl(s, t, over)


def channel_wise_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Divergence of the softmax over space per channel, ``tau^2 / C * sum_c KL(phi(t_c) || phi(s_c))``.

    ``phi(x)`` is ``softmax(x / tau)``: Shu et al. 2021 (CWD), eq. 4 and 5. Summed over positions, then averaged over
    channels and samples. The sum over positions does not grow with their number, see :func:`feature_statistics_kl`.
    With the factor ``tau^2``, the loss of a small error, about half its variance over space, has the same scale at any
    temperature.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    s, t = _pair(student, teacher)
    return temperature**2 * _softmax_kl(s / temperature, t / temperature, "space")


def attention_transfer(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Squared distance of normalized attention maps, ``|Q_s / |Q_s| - Q_t / |Q_t||^2`` with ``Q = sum_c |F_c|^power``.

    Zagoruyko & Komodakis 2017, eq. 2 without its beta / 2; summed over positions, then averaged over samples. As Q is
    never negative, this is 2 - 2 cos, in [0, 2] at any resolution. (Their published code takes the mean over positions,
    which decreases with their number.) It is invariant to the scale of either map, and the maps may differ in channels.

    A map that is 0 everywhere has no attention: its loss is 1 against a map that has, and it passes no gradient.

    Raises:
        ValueError: the power is below 1, which has no gradient at 0.
    """
    if not power >= 1:
        raise ValueError(f"power must be at least 1, got {power}")
    s, t = _pair(student, teacher, equal_channels=False)
    s, t = (_direction(x.abs().pow(power).sum(1).flatten(1), 1, _TINY**power) for x in (s, t))
    return (s - t).square().sum(1).mean()


def _pair(student: Tensor, teacher: Tensor, equal_channels: bool = True) -> tuple[Tensor, Tensor]:
    """Both maps in at least float32, the teacher's detached and resized to the student's height and width."""
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise ValueError(f"feature maps must be (B, C, h, w) with the same B, got {shapes}")
    if equal_channels and student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"feature maps must have equal channels; adapt the student's with a 1x1 convolution; got {shapes}"
        )
    s, t = (x if x.dtype == torch.float64 else x.float() for x in (student, teacher.detach()))
    size = (s.shape[2], s.shape[3])
    if size == t.shape[2:]:
        return s, t
    if size[0] <= t.shape[2] and size[1] <= t.shape[3]:
        return s, F.adaptive_avg_pool2d(t, size)
    return s, F.interpolate(t, size, mode="bilinear", align_corners=False)


def _direction(x: Tensor, dim: int, shortest: float) -> Tensor:
    """Vectors normalized to length 1; 0 and without gradient for vectors of length ``shortest`` or less."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    long = length > shortest
    return torch.where(long, x / torch.where(long, length, 1.0), 0.0)


def _statistics(student: Tensor, teacher: Tensor) -> Tensor:
    # torch's standard deviation has gradient 0, not NaN, where a channel is constant.
    (s_std, s_mean), (t_std, t_mean) = (torch.std_mean(x, dim=(2, 3), correction=0) for x in (student, teacher))
    return (s_mean - t_mean).square().mean() + (s_std - t_std).square().mean()


def _softmax_kl(student: Tensor, teacher: Tensor, over: Distribution) -> Tensor:
    """KL(teacher || student), summed over each distribution, then averaged over all distributions."""
    if over not in ("tensor", "channel", "space"):
        raise ValueError(f"over must be tensor, channel or space, got {over!r}")
    # The values of one distribution along dim 1.
    log_q, log_p = (
        {"tensor": x.flatten(1), "channel": x, "space": x.flatten(0, 1).flatten(1)}[over].log_softmax(1)
        for x in (student, teacher)
    )
    p, q = log_p.exp(), log_q.exp()
    # q - p sums to 0 except for the rounding of the two logarithms, about 1e-6, which it thereby cancels. The loss of a
    # student within one INT8 step of its teacher is no larger than that.
    return (p * (log_p - log_q) + (q - p)).sum(1).mean()
