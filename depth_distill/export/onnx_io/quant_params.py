"""The integers that stand for a tensor in a file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class QuantParams:
    """``real = (code - zero_point) * scale``, ONNX DequantizeLinear.

    Attributes:
        scale: the step between two codes.
        zero_point: the code of 0.
        dtype: NumPy name of the codes' type.
    """

    scale: float
    zero_point: int
    dtype: str

    def round(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values as they come back from their codes."""
        limits = np.iinfo(self.dtype)
        codes = np.clip(np.rint(values / np.float32(self.scale)) + self.zero_point, limits.min, limits.max)
        return ((codes - self.zero_point) * np.float32(self.scale)).astype(np.float32)

    def real(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Values of codes; those of the other sign but the same width are moved by half of their range."""
        shift = 0
        if codes.dtype != np.dtype(self.dtype) and codes.dtype.itemsize == np.dtype(self.dtype).itemsize:
            half = 1 << (8 * codes.dtype.itemsize - 1)
            shift = half if codes.dtype.kind == "i" else -half
        return ((codes.astype(np.int32) + shift - self.zero_point) * np.float32(self.scale)).astype(np.float32)
