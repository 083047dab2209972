"""The numbers that everything is judged by: training, evaluation and export all call these."""

from depth_distill.metrics.depth_metrics import BANDS_M, DepthMetrics
from depth_distill.metrics.functional import METRIC_NAMES, depth_metrics_per_image

__all__ = ["BANDS_M", "METRIC_NAMES", "DepthMetrics", "depth_metrics_per_image"]
