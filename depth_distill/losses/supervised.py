"""Losses against ground truth as modules for configs; the formulas are in ``functional``."""

from typing import Literal

from torch import Tensor, nn

from depth_distill.losses import functional as F


class L1Loss(nn.Module):
    """:func:`~depth_distill.losses.functional.masked_l1`."""

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
        """In metres."""
        return F.masked_l1(prediction_m, target_m, valid)


class MSELoss(nn.Module):
    """:func:`~depth_distill.losses.functional.masked_mse`."""

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
        """In square metres."""
        return F.masked_mse(prediction_m, target_m, valid)


class LogL1Loss(nn.Module):
    """:func:`~depth_distill.losses.functional.log_l1`."""

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
        """Dimensionless."""
        return F.log_l1(prediction_m, target_m, valid)


class RelativeL1Loss(nn.Module):
    """:func:`~depth_distill.losses.functional.relative_l1`."""

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
        """Dimensionless."""
        return F.relative_l1(prediction_m, target_m, valid)


class SILogLoss(nn.Module):
    """:func:`~depth_distill.losses.functional.silog`."""

    def __init__(self, variance_focus: float = 0.85) -> None:
        super().__init__()
        self.variance_focus = variance_focus

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
        """Dimensionless."""
        return F.silog(prediction_m, target_m, valid, self.variance_focus)


class BerHuLoss(nn.Module):
    """:func:`~depth_distill.losses.functional.berhu`."""

    def __init__(self, threshold: float = 0.2) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
        """In metres."""
        return F.berhu(prediction_m, target_m, valid, self.threshold)


class GradientMatchingLoss(nn.Module):
    """:func:`~depth_distill.losses.functional.gradient_matching`."""

    def __init__(self, scales: int = 4, space: Literal["linear", "log"] = "log") -> None:
        super().__init__()
        self.scales = scales
        self.space = space

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
        """In metres for the linear space, dimensionless for log."""
        return F.gradient_matching(prediction_m, target_m, valid, self.scales, self.space)


class ScaleShiftInvariantLoss(nn.Module):
    """:func:`~depth_distill.losses.functional.scale_and_shift_invariant`."""

    def __init__(self, space: F.Space = "inverse") -> None:
        super().__init__()
        self.space = space

    def forward(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
        """Dimensionless."""
        return F.scale_and_shift_invariant(prediction_m, target_m, valid, self.space)
