"""A loss, weight or metric that is NaN or infinite ends the run, with a message that says where it began."""

import math
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from depth_distill import runs
from depth_distill.atomic import write_json
from depth_distill.callbacks.check_monitors import monitors
from depth_distill.errors import DivergedError
from depth_distill.models.finite import first_non_finite_weight
from depth_distill.tasks import MetricDepthTask
from depth_distill.tasks.finite import diverged, first_non_finite
from depth_distill.types import DepthBatch

_ALWAYS_CHECKED = ("val/loss", "val/abs_rel", "vendor/abs_rel")


class StopOnNonFinite(Callback):
    """Stop training as soon as a number is not finite, and leave the checkpoints as they were before.

    The loss is checked before each backward pass; the weights before each validation and whenever a checkpoint is
    written; after each validation its loss, ``abs_rel``, and the metrics that other callbacks monitor. Depth bands
    that no image has pixels in are NaN by right. Predictions are checked by the task. ``diverged.json`` in the run
    folder keeps the message.

    Raises:
        DivergedError: naming epoch, step, and the first weight or layer that is not finite.
    """

    def __init__(self) -> None:
        self._batch: DepthBatch | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._record(trainer).unlink(missing_ok=True)  # of a run that now goes on

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: DepthBatch, batch_idx: int
    ) -> None:
        self._batch = batch

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if bool(loss.detach().isfinite().all()):
            return
        first = first_non_finite_weight(pl_module, statistics=False)
        if first is None and self._batch is not None and isinstance(pl_module, MetricDepthTask):
            with trainer.precision_plugin.forward_context():
                first = first_non_finite(pl_module.network, self._batch.image)
        if first is None:
            terms = (name for name in trainer.callback_metrics if name.startswith("train/") and name != "train/loss")
            first = next((name for name in terms if not math.isfinite(trainer.callback_metrics[name])), None)
        raise diverged(pl_module, f"train/loss is {float(loss)}", first)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: DepthBatch, batch_idx: int
    ) -> None:
        self._batch = None

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _check_weights(pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        for name in (*_ALWAYS_CHECKED, *(name for _, name in monitors(trainer))):
            value = float(trainer.callback_metrics.get(name, 0.0))
            if not math.isfinite(value):
                raise diverged(pl_module, f"{name} is {value}", first_non_finite_weight(pl_module))

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        _check_weights(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, DivergedError):
            if trainer.state.fn == "fit" and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                write_json(self._record(trainer), {"message": str(exception)})
            for each in trainer.checkpoint_callbacks:  # Lightning calls them after all others
                if isinstance(each, ModelCheckpoint):
                    each.save_on_exception = False

    def _record(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / runs.DIVERGED_FILE


def _check_weights(pl_module: LightningModule) -> None:
    weight = first_non_finite_weight(pl_module)
    if weight is not None:
        raise diverged(pl_module, "a weight is not finite", weight)
