"""Depth metrics over a data set, exact for any batch size and under DDP."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from depth_distill.errors import ConfigError
from depth_distill.metrics.alignment import align
from depth_distill.metrics.functional import METRIC_NAMES, depth_metrics_per_image
from depth_distill.types import Alignment, DepthRange

BANDS_M = ((0.5, 2.0), (2.0, 5.0), (5.0, 15.0))
"""The depth bands of the tables, unless a config says otherwise: near, middle, far."""


class DepthMetrics(Metric):
    """Metrics per image, averaged over images: the field's protocol.

    Only ground truth inside the depth range counts, and predictions are clamped to it (the *cap* of the depth
    literature). Images without such a pixel are left out. Each metric is also computed over the pixels whose ground
    truth lies in a band, averaged over the images that have such pixels.

    One row is kept per image, with the sample's index, and a repeated index counts once: ``DistributedSampler``
    repeats samples so that all processes get equally many, which would bias the average.

    Args:
        depth_range: the cap.
        bands_m: (nearest, farthest) of each band; half open, except for the last band, which includes both ends.
        alignment: how relative depth is fitted to the ground truth of its image first.

    Raises:
        ConfigError: a band is empty.
    """

    full_state_update = False
    rows: list[Tensor]
    indices: list[Tensor]

    def __init__(
        self,
        depth_range: DepthRange,
        bands_m: Sequence[tuple[float, float]] = BANDS_M,
        alignment: Alignment = "none",
    ) -> None:
        super().__init__()
        for near, far in bands_m:
            if not 0 <= near < far:
                raise ConfigError(f"a depth band needs 0 <= nearest < farthest, got ({near}, {far})")
        self.depth_range = depth_range
        self.alignment = alignment
        self.bands_m = tuple((float(near), float(far)) for near, far in bands_m)
        self.names = METRIC_NAMES + tuple(
            f"{name}_{near:g}-{far:g}m" for near, far in self.bands_m for name in METRIC_NAMES
        )
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("indices", default=[], dist_reduce_fx="cat")

    @property
    def protocol(self) -> str:
        """How the metrics were computed, for titles and records."""
        aligned = "" if self.alignment == "none" else f", aligned by {self.alignment.replace('_', ' ')}"
        return f"per-image mean, depth {self.depth_range}{aligned}"

    def update(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor, index: Tensor | None = None) -> None:
        """Add images.

        Args:
            prediction_m: ``(B, 1, H, W)`` metres.
            target_m: ``(B, 1, H, W)`` metres.
            valid: ``(B, 1, H, W)`` bool.
            index: ``(B,)`` index of each sample in its data set; without it, no image is treated as a repetition.
        """
        self.rows.append(self.measure(prediction_m, target_m, valid))
        self.indices.append(torch.full((len(target_m),), -1, device=target_m.device) if index is None else index)

    def measure(self, prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
        """Metrics per image, ``(B, len(names))`` float64, without adding them; arguments as in :meth:`update`."""
        valid = valid & self.depth_range.contains(target_m)
        sets = [valid]
        for near, far in self.bands_m:
            below = target_m <= far if (near, far) == self.bands_m[-1] else target_m < far
            sets.append(valid & (target_m >= near) & below)
        prediction_m = align(prediction_m, target_m, valid, self.alignment, self.depth_range)
        prediction_m = prediction_m.clamp(self.depth_range.min_m, self.depth_range.max_m)
        return depth_metrics_per_image(prediction_m, target_m, torch.cat(sets, dim=1))

    def per_image(self) -> tuple[Tensor, Tensor]:
        """Indices ``(N,)`` and metrics ``(N, len(names))`` per distinct image, ordered by index."""
        if len(self.rows) == 0:
            return torch.empty(0, dtype=torch.long), torch.empty(0, len(self.names), dtype=torch.float64)
        indices, rows = dim_zero_cat(self.indices), dim_zero_cat(self.rows)
        order = torch.argsort(indices, stable=True)
        indices, rows = indices[order], rows[order]
        first = torch.ones_like(indices, dtype=torch.bool)
        first[1:] = (indices[1:] != indices[:-1]) | (indices[1:] < 0)
        return indices[first], rows[first]

    def compute(self) -> dict[str, Tensor]:
        """Every metric, by name; NaN if no image has ground truth (in the band)."""
        _, rows = self.per_image()
        return dict(zip(self.names, rows.nanmean(dim=0), strict=True))
