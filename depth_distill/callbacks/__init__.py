"""Lightning callbacks: what happens around a task, kept out of it."""

from depth_distill.callbacks.check_monitors import CheckMonitors
from depth_distill.callbacks.checkpoints import AtomicCheckpointIO, ResumeInPlace, best_and_last
from depth_distill.callbacks.depth_panels import DepthPanels
from depth_distill.callbacks.fake_quant import FakeQuant
from depth_distill.callbacks.feature_hooks import FeatureHooks
from depth_distill.callbacks.graceful_interrupt import GracefulInterrupt
from depth_distill.callbacks.keep_gradients import KeepGradients
from depth_distill.callbacks.layer_ranges import LayerRanges
from depth_distill.callbacks.prediction_writer import PredictionWriter
from depth_distill.callbacks.run_links import RunLinks
from depth_distill.callbacks.run_summary import RunSummary
from depth_distill.callbacks.stop_on_non_finite import StopOnNonFinite
from depth_distill.callbacks.teacher_cache import TeacherCache
from depth_distill.callbacks.training_curves import TrainingCurves

__all__ = [
    "AtomicCheckpointIO",
    "CheckMonitors",
    "DepthPanels",
    "FakeQuant",
    "FeatureHooks",
    "GracefulInterrupt",
    "KeepGradients",
    "LayerRanges",
    "PredictionWriter",
    "ResumeInPlace",
    "RunLinks",
    "RunSummary",
    "StopOnNonFinite",
    "TeacherCache",
    "TrainingCurves",
    "best_and_last",
]
