"""The codec of a network whose output nobody has explained: every question about metres is refused."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs.arithmetic import Array
from depth_distill.codecs.base import HostCodec
from depth_distill.codecs.depth_range import DepthRange
from depth_distill.errors import ConfigError


class HostUnknown(HostCodec):
    """Stands where a codec is expected, for any network at all: segmentation, detection, a file without its story.

    What such a network returns can be compared with what the same network returns in FP32, and with nothing else. So
    everything that needs metres, codes in [0, 1] or a depth range raises a ``ConfigError``.
    """

    def __str__(self) -> str:
        return "unknown"

    @property
    def channels(self) -> int:  # type: ignore[override]
        """Not known."""
        _refuse()

    @property
    def depth_range(self) -> DepthRange:  # type: ignore[override]
        """Not known."""
        _refuse()

    def grid_m(self, bits: int = 8) -> NDArray[np.float32]:
        """Not known."""
        _refuse()

    def encode_with(self, xp: Any, depth_m: Array) -> Array:
        """Not known."""
        _refuse()

    def decode_with(self, xp: Any, codes: Array) -> Array:
        """Not known."""
        _refuse()

    def depth_of(self, xp: Any, codes: Sequence[Array]) -> Array:
        """Not known."""
        _refuse()

    def slopes_with(self, xp: Any, codes: Array) -> Array:
        """Not known."""
        _refuse()


def _refuse() -> NoReturn:
    raise ConfigError("the output of this network has no known meaning: only its deviation from FP32 can be reported")
