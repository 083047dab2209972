"""DepthNet: a timm encoder, a U-Net decoder and a head that ends in codes."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from depth_distill.errors import ConfigError
from depth_distill.models.checkpoints import load_encoder_decoder
from depth_distill.models.code_network import CodeNetwork
from depth_distill.models.codecs import DepthCodec
from depth_distill.models.decoder import Activation, Norm, Padding, UNetDecoder
from depth_distill.models.encoder import build_encoder, feature_channels, feature_strides
from depth_distill.models.heads import HeadFactory, SingleHead
from depth_distill.types import DepthRange


class DepthNet(CodeNetwork):
    """A :class:`~depth_distill.models.code_network.CodeNetwork` built from a timm encoder.

    It can be traced by ``torch.fx``: no control flow between image and codes depends on tensors.

    Args:
        encoder: name of a timm architecture, see :func:`~depth_distill.models.encoder.build_encoder`.
        pretrained: initialize the encoder with timm's published weights.
        weights: initialize the encoder from this local .pth or .safetensors file.
        decoder_channels: output channels of the decoder's stages, deep to shallow.
        activation: activation of the decoder.
        norm: normalization of the decoder.
        padding: padding of the decoder.
        depth_range: nearest and farthest depth, spanned by the codes.
        head: factory of the head; by default ``SingleHead``.
        start_from: initialize encoder and decoder from this checkpoint of a run with any head; the head is not loaded.

    Raises:
        ConfigError: see the encoder, the decoder, the head and
            :func:`~depth_distill.models.checkpoints.load_encoder_decoder`; or two sources of weights are given.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        pretrained: bool = False,
        weights: Path | None = None,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        activation: Activation = "relu",
        norm: Norm = "batch",
        padding: Padding = "zeros",
        depth_range: DepthRange = DepthRange(0.5, 15.0),  # noqa: B008 - frozen
        head: HeadFactory = SingleHead,
        start_from: Path | None = None,
    ) -> None:
        super().__init__()
        if start_from is not None and (pretrained or weights is not None):
            raise ConfigError(f"give either start_from: {start_from} or weights of the encoder alone, not both")
        self.depth_range = depth_range
        self.encoder = build_encoder(encoder, pretrained, weights)
        strides = feature_strides(self.encoder)
        self.stride = strides[-1]
        channels = feature_channels(self.encoder)
        self.decoder = UNetDecoder(channels, strides, decoder_channels, activation, norm, padding)
        self.head = head(self.decoder.out_channels, depth_range)
        if start_from is not None:
            load_encoder_decoder(self, start_from)

    @property
    def codec(self) -> DepthCodec:
        """Decodes this network's codes to metres."""
        return self.head.codec

    def forward(self, image: Tensor) -> Tensor:
        """Codes ``(B, codec.channels, H, W)`` in [0, 1] of a normalized image ``(B, 3, H, W)``."""
        return self.head(self.decoder(self.encoder(image)))
