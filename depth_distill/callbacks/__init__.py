"""Lightning callbacks: what happens around a task, kept out of it."""

from depth_distill.callbacks.depth_panels import DepthPanels
from depth_distill.callbacks.fake_quant import FakeQuant
from depth_distill.callbacks.feature_hooks import FeatureHooks
from depth_distill.callbacks.graceful_interrupt import GracefulInterrupt
from depth_distill.callbacks.prediction_writer import PredictionWriter
from depth_distill.callbacks.run_checkpoint import RunCheckpoint
from depth_distill.callbacks.run_summary import RunSummary
from depth_distill.callbacks.teacher_cache import TeacherCache

__all__ = [
    "DepthPanels",
    "FakeQuant",
    "FeatureHooks",
    "GracefulInterrupt",
    "PredictionWriter",
    "RunCheckpoint",
    "RunSummary",
    "TeacherCache",
]
