"""How far a student's feature map is from the teacher's, as pure functions of two maps ``(B, C, h, w)``.

No gradient reaches the teacher. Statistics are computed in float32 at least, whatever the maps come in. Every loss is
a mean over the samples of a batch; repeating every value 2 x 2 times (a nearest upsampling of both maps) changes none
of them, so a weight found at one batch size and resolution holds at another.

Where the student's map has another height or width, the teacher's is brought to it: by adaptive average pooling where
the student's is the smaller one, by bilinear interpolation otherwise.

Raises:
    ValueError: maps that are not ``(B, C, h, w)``, of unequal batch or, but for attention, of unequal channels.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Distribution = Literal["tensor", "channel", "space"]
Unit = Literal["sample", "channel"]

_TINY = 1e-6
_SILENT = 1e-3


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error over everything, ``mean (s - t)^2``, in squares of the feature's unit."""
    s, t = _pair(student, teacher)
    return (s - t).square().mean()


def fitnets_hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared error, ``mean (s - t)^2 / 2``, of a student map that a 1x1 regressor has adapted.

    Romero et al. 2015 (FitNets), eq. 3, which is a squared norm: a sum over the map. It is a mean here, as that sum
    grows with resolution and channels. The regressor belongs to the caller.
    """
    return 0.5 * feature_mse(student, teacher)


def feature_normalized_mse(student: Tensor, teacher: Tensor, per: Unit = "sample") -> Tensor:
    """Relative squared error of each sample, ``mean (s - t)^2 / mean t^2``, then the mean over samples: a pure number.

    It is 1 / SQNR, so layers whose features differ in scale can share a weight. The divisor is held at 1e-6 or above, a
    root mean square of 0.001, for maps that are silent altogether.

    ``per="channel"`` takes the ratio for each channel of a sample and then the mean, so that in a layer whose channels
    have very unequal ranges the small ones, which the next layer multiplies by large weights, count as much as the
    large. There the divisor is held at 1e-3 of the sample's mean or above: a channel that is silent in one image would
    else have an arbitrary relative error.

    Raises:
        ValueError: unknown ``per``.
    """
    if per not in get_args(Unit):
        raise ValueError(f"per must be one of {', '.join(get_args(Unit))}, got {per!r}")
    s, t = _pair(student, teacher)
    power = t.square().flatten(1).mean(1).clamp(min=_TINY)
    if per == "sample":
        return ((s - t).square().flatten(1).mean(1) / power).mean()
    powers = torch.maximum(t.square().flatten(2).mean(2), _SILENT * power[:, None])
    return ((s - t).square().flatten(2).mean(2) / powers).mean()


def feature_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cos(s, t)`` over the channels of each position, then the mean over positions and samples: in [0, 2].

    Computed as ``|s/|s| - t/|t||^2 / 2``, the same number without its cancellation near 0. A vector of length 1e-6 or
    less has no direction: a position costs 0 where neither has one and 1/2 where one has, and passes no gradient to a
    student without a direction.
    """
    s, t = _pair(student, teacher)
    return 0.5 * (_direction(s, 1, _TINY) - _direction(t, 1, _TINY)).square().sum(1).mean()


def feature_statistics(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of each channel's mean and standard deviation over space, both averaged over channels and samples.

    ``mean (mu_s - mu_t)^2 + mean (sigma_s - sigma_t)^2``, in squares of the feature's unit. These are the statistics of
    Huang & Belongie 2017 (AdaIN), eq. 13, compared by squares instead of norms. ``sigma`` divides by the number of
    positions, not by one less, which would depend on resolution.
    """
    s, t = _pair(student, teacher)
    return _statistics(s, t)


def feature_statistics_kl(
    student: Tensor, teacher: Tensor, kl_weight: float = 0.1, over: Distribution = "tensor"
) -> Tensor:
    """Mean + standard deviation + ``kl_weight`` times a divergence: ``feature_statistics + kl_weight * KL(t || s)``.

    ``over`` says what is one softmax distribution; a divergence is a sum over it, then a mean over all there are:

    - ``tensor``: the whole map, all C*h*w values of a sample: ``kl_div(log_softmax(s.flatten(1), 1),
      softmax(t.flatten(1), 1), reduction="batchmean")``. Channels of large values hold most of its mass.
    - ``channel``: the channels at one position.
    - ``space``: the positions of one channel, as in :func:`channel_wise_kl` at temperature 1. It is blind to just an
      offset of each channel, and that is what the means see.

    None of them is divided by its number of values or its logarithm, since that would make it depend on resolution:
    with every value repeated k times, each of p and q falls to a k-th, their ratio stays, and so does
    ``sum p ln(p / q)``. For a small error d = s - t it is half the variance of d under the teacher's distribution.

    Raises:
        ValueError: an unknown ``over``.
    """
    s, t = _pair(student, teacher)
    return _statistics(s, t) + kl_weight * _softmax_kl(s, t, over)


def channel_wise_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Divergence of each channel's softmax over space, ``tau^2 / C * sum_c KL(phi(t_c) || phi(s_c))``.

    ``phi(x)`` is ``softmax(x / tau)``: Shu et al. 2021 (CWD), eq. 4 and 5. A sum over positions, a mean over channels,
    then a mean over samples. The sum over positions does not grow with their number, see
    :func:`feature_statistics_kl`. ``tau^2`` keeps the loss of a small error, about half its variance over space, at the
    same scale whatever the temperature.

    Raises:
        ValueError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    s, t = _pair(student, teacher)
    return temperature**2 * _softmax_kl(s / temperature, t / temperature, "space")


def attention_transfer(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Squared distance of normalized attention maps, ``|Q_s / |Q_s| - Q_t / |Q_t||^2`` with ``Q = sum_c |F_c|^power``.

    Zagoruyko & Komodakis 2017, eq. 2 without its beta / 2; a sum over positions, then a mean over samples. As Q is
    never negative, this is 2 - 2 cos, in [0, 2] at any resolution. (Their published code takes the mean over positions,
    which falls with their number.) It is blind to the scale of either map, and channels may differ in number.

    A map that is 0 everywhere has no attention: it costs 1 against one that has, and passes no gradient.

    Raises:
        ValueError: a power below 1, which has no gradient at 0.
    """
    if not power >= 1:
        raise ValueError(f"power must be at least 1, got {power}")
    s, t = _pair(student, teacher, equal_channels=False)
    s, t = (_direction(x.abs().pow(power).sum(1).flatten(1), 1, _TINY**power) for x in (s, t))
    return (s - t).square().sum(1).mean()


def _pair(student: Tensor, teacher: Tensor, equal_channels: bool = True) -> tuple[Tensor, Tensor]:
    """Both maps in float32 or more, the teacher's detached and at the student's height and width."""
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise ValueError(f"feature maps must be (B, C, h, w) with the same B, got {shapes}")
    if equal_channels and student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"feature maps must have equal channels, adapt the student's by a 1x1 convolution; got {shapes}"
        )
    s, t = (x if x.dtype == torch.float64 else x.float() for x in (student, teacher.detach()))
    size = (s.shape[2], s.shape[3])
    if size == t.shape[2:]:
        return s, t
    if size[0] <= t.shape[2] and size[1] <= t.shape[3]:
        return s, F.adaptive_avg_pool2d(t, size)
    return s, F.interpolate(t, size, mode="bilinear", align_corners=False)


def _direction(x: Tensor, dim: int, shortest: float) -> Tensor:
    """Vectors of length 1; 0 and without gradient where they are not longer than ``shortest``."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    long = length > shortest
    return torch.where(long, x / torch.where(long, length, 1.0), 0.0)


def _statistics(student: Tensor, teacher: Tensor) -> Tensor:
    # The standard deviation of torch has gradient 0, not NaN, where a channel is constant.
    (s_std, s_mean), (t_std, t_mean) = (torch.std_mean(x, dim=(2, 3), correction=0) for x in (student, teacher))
    return (s_mean - t_mean).square().mean() + (s_std - t_std).square().mean()


def _softmax_kl(student: Tensor, teacher: Tensor, over: Distribution) -> Tensor:
    """KL(teacher || student): a sum over each distribution, then the mean of all there are."""
    if over not in ("tensor", "channel", "space"):
        raise ValueError(f"over must be tensor, channel or space, got {over!r}")
    # The values of one distribution along dim 1.
    log_q, log_p = (
        {"tensor": x.flatten(1), "channel": x, "space": x.flatten(0, 1).flatten(1)}[over].log_softmax(1)
        for x in (student, teacher)
    )
    p, q = log_p.exp(), log_q.exp()
    # q - p sums to 0, but for what the two logarithms are rounded by, 1e-6: it takes that out again. The loss of a
    # student within one INT8 step of its teacher is no larger.
    return (p * (log_p - log_q) + (q - p)).sum(1).mean()
