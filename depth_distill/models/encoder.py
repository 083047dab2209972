"""Encoders: timm backbones that return a feature pyramid."""

from pathlib import Path
from typing import Any

import timm
from torch import nn

from depth_distill.errors import ConfigError, one_line
from depth_distill.suggestions import did_you_mean


def build_encoder(name: str, pretrained: bool = False, weights: Path | str | None = None) -> nn.Module:
    """A timm ``features_only`` encoder: ``(B, 3, H, W)`` to a list of maps, shallow to deep.

    Args:
        name: any timm architecture with feature extraction (``resnet18``, ``mobilenetv2_100``, ...).
        pretrained: download timm's published weights (needs network access the first time).
        weights: a local .pth or .safetensors file of the same architecture, with or without its classifier.

    Raises:
        ConfigError: the name is unknown, the architecture has no feature pyramid, both sources of weights are given, or
            the weights do not exist, do not fit the architecture or cannot be downloaded.
    """
    if name.split(".")[0] not in timm.list_models():
        raise ConfigError(f"timm has no encoder {name!r}; {did_you_mean(name, timm.list_models())}")
    if pretrained and weights is not None:
        raise ConfigError(f"give either pretrained: true or weights: {weights}, not both")
    if weights is not None and not Path(weights).is_file():
        raise ConfigError(f"encoder weights {weights} do not exist")

    overlay: dict[str, Any] = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights)}}
    try:
        encoder = timm.create_model(name, features_only=True, pretrained=pretrained or weights is not None, **overlay)
    except (AttributeError, NotImplementedError, IndexError) as error:
        raise ConfigError(f"timm's {name} cannot return a feature pyramid (features_only): {error}") from error
    except Exception as error:
        if weights is not None:
            raise ConfigError(f"{weights} does not hold weights of {name}: {one_line(error)}") from error
        if pretrained:
            raise ConfigError(
                f"could not download timm's weights of {name} ({error}); without network access, download the file "
                "elsewhere and give it as weights: FILE, or train from scratch with pretrained: false"
            ) from error
        raise
    strides = feature_strides(encoder)
    if sorted(set(strides)) != strides:
        raise ConfigError(f"timm's {name} returns maps of strides {strides}, which is not a feature pyramid")
    return encoder


def feature_channels(encoder: nn.Module) -> list[int]:
    """Channels of each feature map of the encoder, shallow to deep."""
    return list(encoder.feature_info.channels())  # type: ignore[operator, union-attr]


def feature_strides(encoder: nn.Module) -> list[int]:
    """Stride of each feature map of the encoder, shallow to deep."""
    return list(encoder.feature_info.reduction())  # type: ignore[operator, union-attr]
