"""Upsampling in one dimension, phase by phase: what a kernel behind nearest upsampling can express.

Output ``o = factor q + r`` of phase ``r`` is a sum over inputs ``x[q + j]``. An operator is the matrix of its taps, one
row per pair ``(r, j)``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def nearest(factor: int, window: int, reach: int) -> Tensor:
    """Taps of a convolution behind nearest upsampling, by its weights: ``(factor * (2 reach + 1), window)`` float64."""
    matrix = torch.zeros(factor, 2 * reach + 1, window, dtype=torch.float64)
    for phase in range(factor):
        for place in range(window):
            matrix[phase, reach + math.floor((phase + place - window // 2) / factor), place] = 1.0
    return matrix.flatten(0, 1)


def transposed(factor: int, kernel: int, padding: int, dilation: int, reach: int) -> Tensor:
    """Taps of a transposed convolution, by its weights: ``(factor * (2 reach + 1), kernel)`` float64."""
    matrix = torch.zeros(factor, 2 * reach + 1, kernel, dtype=torch.float64)
    for phase in range(factor):
        for offset in range(-reach, reach + 1):
            place, rest = divmod(phase + padding - factor * offset, dilation)
            if not rest and 0 <= place < kernel:
                matrix[phase, reach + offset, place] = 1.0
    return matrix.flatten(0, 1)


def interpolation(factor: int, mode: str, reach: int) -> Tensor:
    """Taps of ``bilinear`` or ``bicubic`` interpolation with ``align_corners=False``, a column of float64."""
    weight, half = (_linear, 1) if mode == "bilinear" else (_cubic, 2)
    matrix = torch.zeros(factor, 2 * reach + 1, dtype=torch.float64)
    for phase in range(factor):
        position = (phase + 0.5) / factor - 0.5
        for offset in range(math.floor(position) - half + 1, math.floor(position) + half + 1):
            matrix[phase, reach + offset] = weight(abs(position - offset))
    return matrix.flatten(0, 1)[:, None]


def nearest_kernel(taps: Callable[[int], Tensor], factor: int, margin: int) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel behind nearest upsampling that is nearest to an operator, in least squares.

    It is exact where the taps of each phase have the same sum, as those of every interpolation have.

    Args:
        taps: the taps of the operator for a reach.
        factor: factor of the upsampling.
        margin: padding of the kernel, whose window is ``2 margin + 1``.

    Returns:
        The kernel by the weights of the operator ``(window, weights)``, and the taps of both, ``(taps, weights)``.
    """
    reach = math.ceil(margin / factor) + 1
    wanted, possible = taps(reach), nearest(factor, 2 * margin + 1, reach)
    kernel = torch.linalg.pinv(possible) @ wanted
    return kernel, possible @ kernel, wanted


def _linear(distance: float) -> float:
    return max(0.0, 1 - distance)


def _cubic(distance: float, a: float = -0.75) -> float:
    """Keys 1981, with the ``a`` that torch and OpenCV take."""
    if distance <= 1:
        return ((a + 2) * distance - (a + 3)) * distance**2 + 1
    return a * (((distance - 5) * distance + 8) * distance - 4) if distance < 2 else 0.0
