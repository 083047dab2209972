"""Lightning callbacks: what happens around a task, kept out of it."""

from depth_distill.callbacks.depth_panels import DepthPanels
from depth_distill.callbacks.graceful_interrupt import GracefulInterrupt
from depth_distill.callbacks.prediction_writer import PredictionWriter
from depth_distill.callbacks.run_checkpoint import RunCheckpoint
from depth_distill.callbacks.run_summary import RunSummary

__all__ = ["DepthPanels", "GracefulInterrupt", "PredictionWriter", "RunCheckpoint", "RunSummary"]
