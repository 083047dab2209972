"""DepthNet: a timm encoder, a U-Net decoder and a head that ends in codes."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from depth_distill.errors import ConfigError
from depth_distill.models.codecs import DepthCodec
from depth_distill.models.decoder import Activation, Norm, UNetDecoder
from depth_distill.models.encoder import build_encoder, feature_channels, feature_strides
from depth_distill.models.heads import HeadFactory, SingleHead
from depth_distill.types import DepthRange


class DepthNet(nn.Module):
    """Monocular metric depth: an image in, codes out. What leaves ``forward`` is what leaves the NPU.

    ``torch.fx`` can trace it: there is no control flow on tensors between the image and the codes.

    Args:
        encoder: name of a timm architecture, see :func:`~depth_distill.models.encoder.build_encoder`.
        pretrained: start the encoder from timm's published weights.
        weights: start the encoder from this local .pth or .safetensors file.
        decoder_channels: output channels of the decoder's stages, deep to shallow.
        activation: activation of the decoder.
        norm: normalization of the decoder.
        depth_range: nearest and farthest depth, spanned by the codes.
        head: builds the head; ``SingleHead`` unless configured.

    Raises:
        ConfigError: see the encoder, the decoder and the head.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        pretrained: bool = False,
        weights: Path | None = None,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        activation: Activation = "relu",
        norm: Norm = "batch",
        depth_range: DepthRange = DepthRange(0.5, 15.0),  # noqa: B008 - frozen
        head: HeadFactory = SingleHead,
    ) -> None:
        super().__init__()
        self.depth_range = depth_range
        self.encoder = build_encoder(encoder, pretrained, weights)
        strides = feature_strides(self.encoder)
        self.stride = strides[-1]
        self.decoder = UNetDecoder(feature_channels(self.encoder), strides, decoder_channels, activation, norm)
        self.head = head(self.decoder.out_channels, depth_range)

    @property
    def codec(self) -> DepthCodec:
        """What turns this network's codes into metres."""
        return self.head.codec

    def forward(self, image: Tensor) -> Tensor:
        """Codes ``(B, codec.channels, H, W)`` in [0, 1] of a normalized image ``(B, 3, H, W)``."""
        return self.head(self.decoder(self.encoder(image)))

    def predict_depth(self, image: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres of a normalized image ``(B, 3, H, W)``.

        Raises:
            ConfigError: height or width is not a multiple of the encoder's stride.
        """
        self.check_image_size(*image.shape[-2:])
        return self.codec.decode(self(image).float())

    def check_image_size(self, height: int, width: int) -> None:
        """Refuse a size that the pyramid cannot be rebuilt from.

        Raises:
            ConfigError: height or width is not a multiple of the encoder's stride.
        """
        if height % self.stride or width % self.stride:
            fits = [max(self.stride, round(side / self.stride) * self.stride) for side in (height, width)]
            raise ConfigError(
                f"image size {height} x {width} (H x W) does not fit this network: both must be multiples of its "
                f"stride {self.stride}; the nearest size that fits is {fits[0]} x {fits[1]}"
            )
