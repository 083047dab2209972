"""Depth of every 8-bit code of an output, so that a host needs a look-up and no arithmetic."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs import HostCodec
from depth_distill.codecs.arithmetic import saturating_sigmoid
from depth_distill.quantization.interface import OutputLayout


@dataclass(frozen=True)
class IntegerCodes:
    """What 8-bit codes of an output stand for: ``(integer - zero_point) * scale``.

    Attributes:
        scale: of the output; 1/255 spreads all codes over [0, 1].
        zero_point: of the output.
        signed: whether the codes are int8 and not uint8.
    """

    scale: float = 1 / 255
    zero_point: int = 0
    signed: bool = False

    def depth_m(self, codec: HostCodec, layout: OutputLayout) -> NDArray[np.float32]:
        """Depth ``(256,)`` in metres of the bytes 0 to 255, that of an int8 in two's complement.

        It has the bits of ``decode(codes_of(dequantize(...)))`` in ``decode.py``.

        Args:
            codec: codec of one code.
            layout: the one output.
        """
        integers = np.arange(256, dtype=np.uint8).view(np.int8 if self.signed else np.uint8)
        values = (integers.astype(np.int32) - np.int32(self.zero_point)).astype(np.float32) * np.float32(self.scale)
        codes = saturating_sigmoid(np, values) if layout.logits else values
        return codec.decode(codes.reshape(1, 1, -1)).ravel()


WHOLE_RANGE = IntegerCodes()
"""uint8 codes that are spread over [0, 1]."""


def integer_codes_of(codec: HostCodec, layout: OutputLayout, given: IntegerCodes | None) -> IntegerCodes | None:
    """The integers that a table of depth can be written for; None where there are several codes, or no known scale.

    Args:
        codec: codec of the outputs.
        layout: the outputs.
        given: integers of the output; None where they are not known. ``WHOLE_RANGE`` is of codes, not of logits.
    """
    if codec.channels != 1 or (layout.logits and given is WHOLE_RANGE):
        return None
    return given
