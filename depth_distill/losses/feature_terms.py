"""Feature losses as modules for configs; the formulas are in ``features``."""

from torch import Tensor, nn

from depth_distill.losses import features


class FeatureMSE(nn.Module):
    """:func:`~depth_distill.losses.features.feature_mse`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """In squared units of the feature."""
        return features.feature_mse(student, teacher)


class FitNetsHint(nn.Module):
    """:func:`~depth_distill.losses.features.fitnets_hint`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """In squared units of the feature."""
        return features.fitnets_hint(student, teacher)


class FeatureNormalizedMSE(nn.Module):
    """:func:`~depth_distill.losses.features.feature_normalized_mse`."""

    def __init__(self, per: features.Unit = "sample") -> None:
        super().__init__()
        self.per = per

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Dimensionless."""
        return features.feature_normalized_mse(student, teacher, self.per)


class FeatureCosine(nn.Module):
    """:func:`~depth_distill.losses.features.feature_cosine`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Dimensionless, in [0, 2]."""
        return features.feature_cosine(student, teacher)


class FeatureStatistics(nn.Module):
    """:func:`~depth_distill.losses.features.feature_statistics`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """In squared units of the feature."""
        return features.feature_statistics(student, teacher)


class FeatureStatisticsKL(nn.Module):
    """:func:`~depth_distill.losses.features.feature_statistics_kl`."""

    def __init__(self, kl_weight: float = 0.1, over: features.Distribution = "tensor") -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.over = over

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Sum of squared units of the feature and nats."""
        return features.feature_statistics_kl(student, teacher, self.kl_weight, self.over)


class ChannelWiseKL(nn.Module):
    """:func:`~depth_distill.losses.features.channel_wise_kl`."""

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """In nats, multiplied by the squared temperature."""
        return features.channel_wise_kl(student, teacher, self.temperature)


class AttentionTransfer(nn.Module):
    """:func:`~depth_distill.losses.features.attention_transfer`."""

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Dimensionless, in [0, 2]."""
        return features.attention_transfer(student, teacher, self.power)
