"""Codecs, which map codes to metres and back, in NumPy only, so that a device needs no torch.

``depth_distill.models.codecs`` does the same arithmetic on tensors, bit-exactly.
"""

from depth_distill.codecs.base import HostCodec
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.codecs.description import codec_of, describe_codec, formula
from depth_distill.codecs.pair import HostPair, PairSpacing
from depth_distill.codecs.single import Encoding, HostSingle
from depth_distill.codecs.table import HostTable
from depth_distill.codecs.thermometer import HostThermometer, Spacing
from depth_distill.codecs.two_part import (
    Decoder,
    Fraction,
    HostIntegerFractional,
    Integer,
    TwoPartCodec,
)
from depth_distill.codecs.unknown import HostUnknown

__all__ = [
    "Decoder",
    "DepthRange",
    "Encoding",
    "Fraction",
    "HostCodec",
    "HostIntegerFractional",
    "HostPair",
    "HostSingle",
    "HostTable",
    "HostThermometer",
    "HostUnknown",
    "Integer",
    "PairSpacing",
    "Spacing",
    "TwoPartCodec",
    "codec_of",
    "describe_codec",
    "formula",
]
