"""Depth metrics, shared by training, evaluation and export."""

from depth_distill.metrics.depth_metrics import BANDS_M, DepthMetrics
from depth_distill.metrics.functional import METRIC_NAMES, depth_metrics_per_image

__all__ = ["BANDS_M", "METRIC_NAMES", "DepthMetrics", "depth_metrics_per_image"]
