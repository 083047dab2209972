"""The U-Net decoder: nearest upsampling, concatenated skips, two 3 x 3 convolutions per stage."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError

Activation = Literal["relu", "leaky_relu", "elu"]
Norm = Literal["batch", "none"]
Padding = Literal["zeros", "reflect"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU}


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, optional batch norm, activation; ``(B, in, H, W)`` to ``(B, out, H, W)``."""

    def __init__(
        self, in_channels: int, out_channels: int, activation: Activation, norm: Norm, padding: Padding
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=norm == "none", padding_mode=padding)
        ]
        if norm == "batch":
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(_ACTIVATIONS[activation]())
        super().__init__(*layers)


class UpBlock(nn.Module):
    """One stage: upsample, concatenate the skip if there is one, convolve twice."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        factor: int,
        activation: Activation,
        norm: Norm,
        padding: Padding,
    ) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=factor, mode="nearest")
        self.conv1 = ConvBlock(in_channels + skip_channels, out_channels, activation, norm, padding)
        self.conv2 = ConvBlock(out_channels, out_channels, activation, norm, padding)

    def forward(self, features: Tensor, skip: Tensor | None = None) -> Tensor:
        """``(B, in, H, W)`` and ``(B, skip, fH, fW)`` to ``(B, out, fH, fW)``."""
        features = self.upsample(features)
        if skip is not None:
            features = torch.cat([features, skip], dim=1)
        return self.conv2(self.conv1(features))


class UNetDecoder(nn.Module):
    """Upsamples an encoder's pyramid to full resolution (Ronneberger et al. 2015, with nearest upsampling).

    ``activation="elu", norm="none", padding="reflect"`` is the decoder of monodepth2 (Godard et al. 2019). The ReLU
    family quantizes better and can be equalized exactly, because it is positively homogeneous, and many NPUs pad with
    zeros only. The weights of all paddings and activations have the same names and shapes.

    Args:
        encoder_channels: channels per pyramid level, shallow to deep.
        encoder_strides: stride per pyramid level, shallow to deep.
        channels: output channels per stage, deep to shallow; one stage per pyramid level.
        activation: ``relu``, ``leaky_relu`` or ``elu``.
        norm: ``batch`` or ``none``.
        padding: ``zeros`` or ``reflect``.

    Raises:
        ConfigError: ``channels`` does not have one positive entry per pyramid level, or activation, norm or padding is
            unknown.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        encoder_strides: Sequence[int],
        channels: Sequence[int] = (256, 128, 64, 32, 16),
        activation: Activation = "relu",
        norm: Norm = "batch",
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        if len(channels) != len(encoder_channels):
            raise ConfigError(
                f"the decoder needs one entry of channels per pyramid level: the encoder has {len(encoder_channels)} "
                f"levels (strides {list(encoder_strides)}), channels has {len(channels)}"
            )
        if min(channels) < 1:
            raise ConfigError(f"decoder_channels: received {list(channels)}, expected numbers of 1 or more")
        for value, choices, key in (
            (activation, get_args(Activation), "activation"),
            (norm, get_args(Norm), "norm"),
            (padding, get_args(Padding), "padding"),
        ):
            if value not in choices:
                raise ConfigError(f"decoder {key} must be one of {', '.join(choices)}, got {value!r}")
        self.out_channels = channels[-1]
        finer_strides = [1, *encoder_strides[:-1]][::-1]
        skip_channels = [0, *encoder_channels[:-1]][::-1]
        in_channels = [encoder_channels[-1], *channels[:-1]]
        self.blocks = nn.ModuleList(
            UpBlock(inputs, skip, outputs, stride // finer, activation, norm, padding)
            for inputs, skip, outputs, stride, finer in zip(
                in_channels, skip_channels, channels, encoder_strides[::-1], finer_strides, strict=True
            )
        )

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Pyramid of feature maps, shallow to deep, to ``(B, channels[-1], H, W)`` at full resolution."""
        features = pyramid[-1]
        for level, block in enumerate(self.blocks, start=2):
            features = block(features, pyramid[-level] if level <= len(pyramid) else None)
        return features
