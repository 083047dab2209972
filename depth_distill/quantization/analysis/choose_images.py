"""Which images a tool chain should calibrate on by minimum and maximum: wide enough for the rest, and no wider."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from depth_distill.quantization.analysis.image_ranges import Floats, ImageRanges
from depth_distill.quantization.simulate.fake_quant import affine_parameters
from depth_distill.quantization.target.target import TensorFormat

TOLERANCE = 0.01
"""An image is added while the expected deviation stays within this share of the lowest."""
_NARROWEST = 1e-30


def typical(deviations: Floats, left_out: float) -> Floats:
    """Mean over images, the last dimension, without the share of them that is worst."""
    kept = deviations.shape[-1] - math.floor(left_out * deviations.shape[-1])
    mean: Floats = np.sort(deviations, -1)[..., :kept].mean(-1)
    return mean


class RangeCost:
    """The deviation to expect with given ranges, from statistics alone.

    A tensor of an image with values ``x`` and the range ``[l, h]`` in steps of ``s`` gains the noise ``s^2 / 12`` where
    it is rounded, and ``(x - h)^2`` or ``(l - x)^2`` where it is clipped. Noise adds up over tensors by their gains,
    and saturates at the variance of the outcome. The deviation is the mean over images of its square root.

    Args:
        images: statistics of the images that are to deviate little.
        gains: how much of the noise of each site arrives at the outcome, ``(S,)``.
        variance: variance of the outcome.
        tensor_format: format of activations.
        left_out: share of the images, the worst, that do not count: where faulty ones may be among them.
    """

    def __init__(
        self,
        images: ImageRanges,
        gains: Floats,
        variance: float,
        tensor_format: TensorFormat,
        left_out: float = 0.0,
    ) -> None:
        self.images, self.gains, self.variance, self.tensor_format = images, gains, variance, tensor_format
        self.left_out = left_out
        # Sums of shares, of shares times bin, and of shares times bin squared, from each bin to the last, or up to it.
        shares = images.shares.astype(np.float64)
        bins = np.arange(shares.shape[-1]) + 0.5
        moments = np.stack([shares, shares * bins, shares * bins**2])
        self._above = np.zeros((*moments.shape[:3], moments.shape[3] + 1))
        self._above[..., :-1] = np.cumsum(moments[..., ::-1], -1)[..., ::-1]
        self._below = self._above[..., :1] - self._above

    def __call__(self, lows: Floats, highs: Floats, clipping: float = 1.0) -> Floats:
        """The expected deviation with each of several candidate ranges.

        Args:
            lows: lowest values, ``(C, S)``.
            highs: highest values, ``(C, S)``.
            clipping: factor of the noise of clipping: unlike that of rounding it is not white, as it always pulls
                inwards.

        Returns:
            One number for each candidate, ``(C,)``.
        """
        noise = np.zeros((len(lows), len(self.images)))
        for site, gain in enumerate(self.gains):
            if gain > 0:
                # Most candidates leave most ranges as they are.
                ends, which = np.unique(np.stack([lows[:, site], highs[:, site]], 1), axis=0, return_inverse=True)
                noise += gain * self._noise(site, ends[:, 0], ends[:, 1], clipping)[which.ravel()]
        saturated = noise / (1 + noise / self.variance) if self.variance > 0 else noise
        return typical(np.sqrt(saturated), self.left_out)

    def _noise(self, site: int, lows: Floats, highs: Floats, clipping: float) -> Floats:
        """Mean square of the noise in each image at a site, ``(U, M)``, with the ends ``(U,)``."""
        codes, images = self.tensor_format, self.images
        scale, zero_point = (
            each.numpy() for each in affine_parameters(torch.from_numpy(lows), torch.from_numpy(highs), codes)
        )
        low, high = ((end - zero_point) * scale for end in (codes.quant_min, codes.quant_max))
        count = images.shares.shape[-1]
        width = np.maximum(images.highs[:, site] - images.lows[:, site], _NARROWEST) / count
        clipped = np.zeros((len(lows), len(images)))
        for end, moments in ((high, self._above), (low, self._below)):
            place = (end[:, None] - images.lows[:, site]) / width
            first = np.ceil(np.clip(place - 0.5, 0, count)).astype(int)  # bins whose centre lies beyond the end
            zeroth, one, two = moments[:, np.arange(len(images)), site, first]
            clipped += np.maximum(two - 2 * place * one + place**2 * zeroth, 0) * width**2
        noise: Floats = scale[:, None] ** 2 / 12 * images.rounded[:, site] + clipping * clipped
        return noise


def choose_greedily(cost: RangeCost, images: ImageRanges, count: int, clipping: float = 1.0) -> list[int]:
    """At most ``count`` of the images, the most useful first.

    It ends early where every further image would widen ranges by more than it saves.
    """
    chosen: list[int] = []
    low, high = np.full(len(images.sites), np.inf), np.full(len(images.sites), -np.inf)
    lowest = np.inf
    while len(chosen) < min(count, len(images)):
        rest = [index for index in range(len(images)) if index not in chosen]
        expected = cost(np.minimum(low, images.lows[rest]), np.maximum(high, images.highs[rest]), clipping)
        best = int(np.argmin(expected))
        if expected[best] > (1 + TOLERANCE) * lowest:
            break
        lowest = min(lowest, float(expected[best]))
        chosen.append(rest[best])
        low, high = np.minimum(low, images.lows[rest[best]]), np.maximum(high, images.highs[rest[best]])
    return chosen


def stretch_of(
    cost: RangeCost, images: ImageRanges, chosen: Sequence[int], clipping: float = 1.0
) -> list[tuple[float, str]]:
    """For each image, what adding it to the chosen ones would do.

    Returns:
        The share by which the expected deviation would rise, 0 for a chosen image; and the site whose range would widen
        most.
    """
    low, high = images.lows[list(chosen)].min(0), images.highs[list(chosen)].max(0)
    lows, highs = np.minimum(low, images.lows), np.maximum(high, images.highs)
    (before,) = cost(low[None], high[None], clipping)
    rise = cost(lows, highs, clipping) / max(before, _NARROWEST) - 1
    widened = (highs - lows) / np.maximum(high - low, _NARROWEST)
    return [(float(by), images.sites[int(site)]) for by, site in zip(rise, widened.argmax(1), strict=True)]
