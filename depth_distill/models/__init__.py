"""Networks from image to codes, and the codecs from codes to metres."""

from depth_distill.models.code_network import CodeNetwork, GraphNetwork
from depth_distill.models.codecs import DepthCodec, SingleCodec
from depth_distill.models.depth_net import DepthNet
from depth_distill.models.heads import DepthHead, SingleHead

__all__ = ["CodeNetwork", "DepthCodec", "DepthHead", "DepthNet", "GraphNetwork", "SingleCodec", "SingleHead"]
