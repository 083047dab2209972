"""What codes mean in metres, in NumPy alone: a device that runs the network needs no torch to read its output.

``depth_distill.models.codecs`` is the same arithmetic on tensors, bit by bit.
"""

from depth_distill.codecs.base import HostCodec
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.codecs.description import codec_of, describe_codec, formula
from depth_distill.codecs.single import Encoding, HostSingle
from depth_distill.codecs.thermometer import HostThermometer, Spacing
from depth_distill.codecs.two_part import (
    Decoder,
    Fraction,
    HostIntegerFractional,
    Integer,
    TwoPartCodec,
)

__all__ = [
    "Decoder",
    "DepthRange",
    "Encoding",
    "Fraction",
    "HostCodec",
    "HostIntegerFractional",
    "HostSingle",
    "HostThermometer",
    "Integer",
    "Spacing",
    "TwoPartCodec",
    "codec_of",
    "describe_codec",
    "formula",
]
