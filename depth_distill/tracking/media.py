"""Pictures, histograms and tables for loggers that can show them; the others are passed over."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from depth_distill.data.reading import read_image

_BINS = 64


@dataclass(frozen=True)
class Histogram:
    """A distribution of values.

    Attributes:
        counts: number of values by bin.
        edges: borders of the bins, one more than there are bins.
        low: smallest value.
        high: largest value.
        total: sum of all values.
        squares: sum of their squares.
    """

    counts: list[int]
    edges: list[float]
    low: float
    high: float
    total: float
    squares: float

    @classmethod
    def of(cls, values: Tensor) -> "Histogram":
        """The distribution of a tensor's finite values in bins of one width."""
        flat = values.detach().float().flatten()
        finite = flat.isfinite()
        flat = flat if bool(finite.all()) else flat[finite]
        if not flat.numel():
            return cls([0], [0.0, 0.0], 0.0, 0.0, 0.0, 0.0)
        low, high = (float(each) for each in flat.aminmax())
        # A bin has a width, also where all values are the same.
        top = high if high > low else low + max(abs(low), 1.0) * 1e-6
        counts = torch.histc(flat, _BINS, low, top)
        edges = torch.linspace(low, top, _BINS + 1, dtype=torch.float64)
        total, squares = (float(each.sum(dtype=torch.float64)) for each in (flat, flat.square()))
        return cls(counts.long().tolist(), edges.tolist(), low, high, total, squares)


def log_histograms(loggers: Iterable[Logger], histograms: Mapping[str, Histogram], step: int) -> None:
    """Log distributions by name to Weights & Biases and TensorBoard."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            found: dict[str, Any] = {
                name: wandb.Histogram(np_histogram=(np.array(each.counts), np.array(each.edges)))
                for name, each in histograms.items()
            }
            logger.log_metrics(found, step=step)
        elif isinstance(logger, TensorBoardLogger):
            for name, each in histograms.items():
                logger.experiment.add_histogram_raw(
                    name,
                    min=each.low,
                    max=each.high,
                    num=sum(each.counts),
                    sum=each.total,
                    sum_squares=each.squares,
                    bucket_limits=each.edges[1:],
                    bucket_counts=each.counts,
                    global_step=step,
                )


def log_picture(loggers: Iterable[Logger], key: str, path: Path, step: int) -> None:
    """Log a picture file to Weights & Biases, TensorBoard and MLflow."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [str(path)], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, read_image(path).numpy(), step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path), key.partition("/")[0])
