"""What training minimizes."""

from depth_distill.losses.composite import CompositeLoss
from depth_distill.losses.supervised import (
    BerHuLoss,
    GradientMatchingLoss,
    L1Loss,
    LogL1Loss,
    MSELoss,
    RelativeL1Loss,
    ScaleShiftInvariantLoss,
    SILogLoss,
)

__all__ = [
    "BerHuLoss",
    "CompositeLoss",
    "GradientMatchingLoss",
    "L1Loss",
    "LogL1Loss",
    "MSELoss",
    "RelativeL1Loss",
    "SILogLoss",
    "ScaleShiftInvariantLoss",
]
