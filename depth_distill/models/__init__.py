"""Networks from image to codes, and the codecs from codes to metres."""

from depth_distill.models.checkpoints import load_encoder_decoder
from depth_distill.models.code_network import CodeNetwork, GraphNetwork
from depth_distill.models.codecs import (
    DepthCodec,
    IntegerFractionalCodec,
    SingleCodec,
    ThermometerCodec,
    carry_errors,
)
from depth_distill.models.depth_net import DepthNet
from depth_distill.models.heads import (
    DepthHead,
    IntegerFractionalHead,
    SingleHead,
    ThermometerHead,
)

__all__ = [
    "CodeNetwork",
    "DepthCodec",
    "DepthHead",
    "DepthNet",
    "GraphNetwork",
    "IntegerFractionalCodec",
    "IntegerFractionalHead",
    "SingleCodec",
    "SingleHead",
    "ThermometerCodec",
    "ThermometerHead",
    "carry_errors",
    "load_encoder_decoder",
]
