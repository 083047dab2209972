"""Another head on a trained network: from a single code to several, without retraining."""

import copy

from torch import nn

from depth_distill.codecs import Spacing
from depth_distill.errors import ConfigError
from depth_distill.models.code_network import CodeNetwork
from depth_distill.models.depth_net import DepthNet
from depth_distill.models.heads import SingleHead, ThermometerHead


def thermometer_from_single(network: CodeNetwork, num_codes: int = 8) -> DepthNet:
    """A copy whose head says the same depth in several codes, each so many times finer where the head clips.

    The last convolution is repeated with other factors and biases, and clipped. A sigmoid cannot stay in the graph: its
    own output is rounded to 8 bits, and what is made of it afterwards is no finer. So the codes share out the
    *pre-activation*, and the sigmoid moves into the codec, on the host. Float depth is that of ``network``, to 1e-5 of
    the code range.

    Args:
        network: with a :class:`~depth_distill.models.heads.SingleHead`; it is not changed.
        num_codes: 2, 4, 8 or 16. With a sigmoid, 2 codes are coarser than one; see docs/heads.md.

    Raises:
        ConfigError: another head, or another number of codes.
    """
    single = _single_head(network)
    spacing: Spacing = "logit" if isinstance(single.output, nn.Sigmoid) else "uniform"
    encoding = single.codec.encoding
    head = ThermometerHead(single.conv.in_channels, network.depth_range, encoding, num_codes, spacing)
    head.to(single.conv.weight).repeat(single.conv)
    converted = copy.deepcopy(network)
    assert isinstance(converted, DepthNet)
    converted.head = head.train(network.training)
    return converted


def _single_head(network: CodeNetwork) -> SingleHead:
    head = getattr(network, "head", None)
    if not isinstance(head, SingleHead):
        what = "is a graph, as a distilled student is" if head is None else f"ends in a {type(head).__name__}"
        raise ConfigError(
            f"the network {what}; only a network with a SingleHead can be converted: start from its checkpoint, or "
            "from that of the student's teacher"
        )
    return head
