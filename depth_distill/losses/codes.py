"""Losses on codes, for heads whose codes mean something each. All are called as ``term(codes, target_codes, valid)``.

Codes are ``(B, C, H, W)`` in [0, 1], target codes ``codec.encode(depth_m)``, ``valid`` is ``(B, 1, H, W)``. Means are
those of ``functional``: over the valid pixels of an image, then over images. Each returns a pure number; weights belong
to :class:`~depth_distill.losses.CompositeLoss`.
"""

from typing import get_args

import torch
from torch import Tensor, nn

from depth_distill.codecs import Fraction, Integer
from depth_distill.errors import ConfigError
from depth_distill.losses.functional import masked_mean


class CodeL1Loss(nn.Module):
    """Mean absolute error over all code channels alike; what a thermometer needs."""

    def forward(self, codes: Tensor, target_codes: Tensor, valid: Tensor) -> Tensor:
        """Steps of code, 1 is the whole range."""
        return masked_mean(_error(codes, target_codes, valid).mean(dim=1, keepdim=True), valid)


class IntegerLoss(nn.Module):
    """Mean absolute error of the integer code, channel 0."""

    def forward(self, codes: Tensor, target_codes: Tensor, valid: Tensor) -> Tensor:
        """Steps of code: 1/15 is a metre where the farthest depth is 15 m."""
        return masked_mean(_error(codes, target_codes, valid)[:, :1], valid)


class FractionLoss(nn.Module):
    """Mean absolute error of the fraction, channel 1.

    A sawtooth wraps: 0.98 and 0.02 are 0.04 apart, the short way round, so that a pixel just below a whole metre is not
    pulled through the whole range. (Its gradient points away from 1/2 where the error is larger than that.)

    Args:
        fraction: what the head's codec has: ``sawtooth`` wraps, ``triangle`` does not.

    Raises:
        ConfigError: another word.
    """

    def __init__(self, fraction: Fraction = "sawtooth") -> None:
        super().__init__()
        _check("fraction", fraction, get_args(Fraction))
        self.wraps = fraction == "sawtooth"

    def forward(self, codes: Tensor, target_codes: Tensor, valid: Tensor) -> Tensor:
        """Metres, as one fraction is one metre."""
        error = _error(codes, target_codes, valid)[:, 1:2]
        return masked_mean(torch.minimum(error, 1 - error) if self.wraps else error, valid)


class ConsistencyLoss(nn.Module):
    """How far integer and fraction are from saying the same depth, whatever depth that is.

    With ``integer="coarse"`` the integer implies a fraction, and this is its distance from the one predicted (the short
    way round for a sawtooth): ``unwrap`` is right while it is below 1/2. With ``floor`` it is the distance of
    the integer from a whole metre: ``round`` is right while it is below 1/2.

    Args:
        metres: the farthest depth of the codec, rounded up to a metre.
        integer: what the head's codec has, ``coarse`` or ``floor``.
        fraction: ``sawtooth`` or ``triangle``.

    Raises:
        ConfigError: another word, or metres below 1.
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
        """Metres; the target is not used."""
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
    """Absolute error; what stands in an invalid pixel of the target has no effect on gradients either."""
    return (codes - torch.where(valid, target_codes, 0.0)).abs()


def _to_nearest_whole(values: Tensor) -> Tensor:
    return (values - values.detach().round()).abs()


def _check(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key} must be one of {', '.join(known)}, got {value!r}")
