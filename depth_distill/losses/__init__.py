"""Losses and regularizers for training."""

from depth_distill.losses.codes import CodeL1Loss, ConsistencyLoss, FractionLoss, IntegerLoss
from depth_distill.losses.composite import CompositeLoss
from depth_distill.losses.feature_terms import (
    AttentionTransfer,
    ChannelWiseKL,
    FeatureCosine,
    FeatureMSE,
    FeatureNormalizedMSE,
    FeatureStatistics,
    FeatureStatisticsKL,
    FitNetsHint,
)
from depth_distill.losses.loss_weighting import FixedWeights, UncertaintyWeights
from depth_distill.losses.regularizers import ChannelRangePenalty, KurtosisPenalty
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
    "AttentionTransfer",
    "BerHuLoss",
    "ChannelRangePenalty",
    "ChannelWiseKL",
    "CodeL1Loss",
    "CompositeLoss",
    "ConsistencyLoss",
    "FeatureCosine",
    "FeatureMSE",
    "FeatureNormalizedMSE",
    "FeatureStatistics",
    "FeatureStatisticsKL",
    "FitNetsHint",
    "FixedWeights",
    "FractionLoss",
    "GradientMatchingLoss",
    "IntegerLoss",
    "KurtosisPenalty",
    "L1Loss",
    "LogL1Loss",
    "MSELoss",
    "RelativeL1Loss",
    "SILogLoss",
    "ScaleShiftInvariantLoss",
    "UncertaintyWeights",
]
