"""Losses on codes, for heads whose codes have separate meanings, all called as ``term(codes, target_codes, valid)``.

Codes are ``(B, C, H, W)`` in [0, 1], target codes are ``codec.encode(depth_m)``, and ``valid`` is ``(B, 1, H, W)``.
Means are those of ``functional``: over the valid pixels of an image, then over images. Weights belong to
:class:`~depth_distill.losses.CompositeLoss`.
"""

from typing import get_args

import torch
from torch import Tensor, nn

from depth_distill.codecs import Fraction, Integer
from depth_distill.errors import ConfigError
from depth_distill.losses.functional import masked_mean


class CodeL1Loss(nn.Module):
    """Mean absolute error over all codes, for thermometer heads."""

    def forward(self, codes: Tensor, target_codes: Tensor, valid: Tensor) -> Tensor:
        """Mean error as a share of the code range."""
        return masked_mean(_error(codes, target_codes, valid).mean(dim=1, keepdim=True), valid)


class IntegerLoss(nn.Module):
    """Mean absolute error of the integer code, in channel 0."""

    def forward(self, codes: Tensor, target_codes: Tensor, valid: Tensor) -> Tensor:
        """Mean error as a share of the code range: for a farthest depth of 15 m, one metre is 1/15."""
        return masked_mean(_error(codes, target_codes, valid)[:, :1], valid)


class FractionLoss(nn.Module):
    """Mean absolute error of the fraction, in channel 1.

    A sawtooth wraps around: 0.98 and 0.02 are 0.04 apart, so that a pixel just below a whole metre is not pulled
    through the whole range. (The gradient changes its sign where the error exceeds 1/2.)

    Args:
        fraction: fraction of the head's codec: ``sawtooth`` wraps around, ``triangle`` does not.

    Raises:
        ConfigError: the fraction is unknown.
    """

    def __init__(self, fraction: Fraction = "sawtooth") -> None:
        super().__init__()
        _check("fraction", fraction, get_args(Fraction))
        self.wraps = fraction == "sawtooth"

    def forward(self, codes: Tensor, target_codes: Tensor, valid: Tensor) -> Tensor:
        """Mean error in metres, because the fraction spans one metre."""
        error = _error(codes, target_codes, valid)[:, 1:2]
        return masked_mean(torch.minimum(error, 1 - error) if self.wraps else error, valid)


class ConsistencyLoss(nn.Module):
    """Inconsistency of integer and fraction, independent of the true depth.

    With ``integer="coarse"``, the integer implies a fraction, and this is its distance from the predicted one (with
    wrap-around for a sawtooth): ``unwrap`` is correct while it is below 1/2. With ``floor``, it is the distance of the
    integer from a whole metre: ``round`` is correct while it is below 1/2.

    Args:
        metres: farthest depth of the codec, rounded up to whole metres.
        integer: integer of the head's codec, ``coarse`` or ``floor``.
        fraction: fraction of the head's codec, ``sawtooth`` or ``triangle``.

    Raises:
        ConfigError: the integer or fraction is unknown, or metres is below 1.
    """

    def __init__(self, metres: int = 15, integer: Integer = "coarse", fraction: Fraction = "sawtooth") -> None:
        super().__init__()
        _check("integer", integer, get_args(Integer))
        _check("fraction", fraction, get_args(Fraction))
        if metres < 1:
            raise ConfigError(f"metres must be at least 1, got {metres}")
        self.metres = metres
        self.integer = integer
        self.fraction = fraction

    def forward(self, codes: Tensor, target_codes: Tensor, valid: Tensor) -> Tensor:
        """Mean inconsistency in metres; the target is not used."""
        coarse_m, fraction = codes[:, :1] * self.metres, codes[:, 1:2]
        if self.integer == "floor":
            error = _to_nearest_whole(coarse_m)
        elif self.fraction == "sawtooth":
            error = _to_nearest_whole(coarse_m - fraction)
        else:
            # Distance from the nearest even metre is the triangle wave.
            error = (2 * _to_nearest_whole(coarse_m / 2) - fraction).abs()
        return masked_mean(error, valid)


def _error(codes: Tensor, target_codes: Tensor, valid: Tensor) -> Tensor:
    """Absolute error; targets of invalid pixels, even NaN, do not affect gradients."""
    return (codes - torch.where(valid, target_codes, 0.0)).abs()


def _to_nearest_whole(values: Tensor) -> Tensor:
    return (values - values.detach().round()).abs()


def _check(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key} must be one of {', '.join(known)}, got {value!r}")
