"""LightningModules: what is trained, and on what loss."""

from depth_distill.tasks.depth import DepthTask
from depth_distill.tasks.distillation import DistillationTask
from depth_distill.tasks.layer_pairs import LayerPair
from depth_distill.tasks.metric_depth import MetricDepthTask
from depth_distill.tasks.optimizers import GainAdamW
from depth_distill.tasks.schedules import WarmupCosineLR

__all__ = ["DepthTask", "DistillationTask", "GainAdamW", "LayerPair", "MetricDepthTask", "WarmupCosineLR"]
