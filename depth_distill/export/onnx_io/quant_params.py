"""Quantization parameters of a tensor in a file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class QuantParams:
    """Scale and zero point of a tensor: ``real = (code - zero_point) * scale``, as in ONNX's DequantizeLinear.

    Attributes:
        scale: quantization step, the difference between the values of two adjacent codes.
        zero_point: the code of the value 0.
        dtype: NumPy name of the type of the codes.
    """

    scale: float
    zero_point: int
    dtype: str

    def round(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Quantize and dequantize values."""
        limits = np.iinfo(self.dtype)
        codes = np.clip(np.rint(values / np.float32(self.scale)) + self.zero_point, limits.min, limits.max)
        return ((codes - self.zero_point) * np.float32(self.scale)).astype(np.float32)

    def real(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Dequantize codes; codes of the same width but other signedness are shifted by half of their range."""
        shift = 0
        if codes.dtype != np.dtype(self.dtype) and codes.dtype.itemsize == np.dtype(self.dtype).itemsize:
            half = 1 << (8 * codes.dtype.itemsize - 1)
            shift = half if codes.dtype.kind == "i" else -half
        return ((codes.astype(np.int32) + shift - self.zero_point) * np.float32(self.scale)).astype(np.float32)
