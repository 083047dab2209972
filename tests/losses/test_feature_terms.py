"""Modules call the functions of the same name, with their arguments."""

import pytest

from depth_distill import losses
from depth_distill.losses import features
from tests.losses.test_features import maps


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (losses.FeatureMSE(), features.feature_mse(*maps())),
        (losses.FitNetsHint(), features.fitnets_hint(*maps())),
        (losses.FeatureNormalizedMSE(), features.feature_normalized_mse(*maps())),
        (losses.FeatureCosine(), features.feature_cosine(*maps())),
        (losses.FeatureStatistics(), features.feature_statistics(*maps())),
        (losses.FeatureStatisticsKL(), features.feature_statistics_kl(*maps(), kl_weight=0.1, over="tensor")),
        (losses.FeatureStatisticsKL(2.0, "space"), features.feature_statistics_kl(*maps(), 2.0, "space")),
        (losses.ChannelWiseKL(), features.channel_wise_kl(*maps(), temperature=4.0)),
        (losses.ChannelWiseKL(1.0), features.channel_wise_kl(*maps(), temperature=1.0)),
        (losses.AttentionTransfer(), features.attention_transfer(*maps(), power=2.0)),
        (losses.AttentionTransfer(3.0), features.attention_transfer(*maps(), power=3.0)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_module_is_function(module, expected):
    assert module(*maps()).item() == expected.item()
