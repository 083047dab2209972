"""The record of a training run: one line per epoch while it runs, and ``summary.json``."""

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from depth_distill import __version__, runs
from depth_distill.atomic import write_json
from depth_distill.display.console import plain_console
from depth_distill.types import DepthBatch

_VERSIONED = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm")


def package_versions() -> dict[str, str]:
    """Versions of this package and of those that numbers depend on, for a record."""
    return {"depth-distill": __version__} | {name: version(name) for name in _VERSIONED}


class RunSummary(Callback):
    """Time the run and keep its record.

    ``summary.json`` in the run folder has metrics and their protocol, best checkpoint, wall time, images per second,
    versions and seed. It is rewritten after every epoch, so that an interrupted run leaves its record, too.

    Args:
        epoch_lines: whether to print one line per epoch; if not given, only where the output is not a terminal, and so
            without a progress bar.
    """

    def __init__(self, epoch_lines: bool | None = None) -> None:
        self.epoch_lines = epoch_lines
        self._console = plain_console()
        self._wall_s = 0.0
        self.train_s = 0.0
        """Seconds spent on training batches, including the loader, without validation."""
        self._train_images = 0
        self._fit_started = 0.0
        self._epoch_started = 0.0

    @property
    def images_per_s(self) -> float:
        """Training images per second, including the loader, without validation."""
        return self._train_images / self.train_s if self.train_s else 0.0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit_started = time.monotonic()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that is resumed in the middle of an epoch does not start that epoch again.
        self._epoch_started = time.monotonic()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_started = time.monotonic()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: DepthBatch, batch_idx: int
    ) -> None:
        self._train_images += len(batch.image) * trainer.world_size
        now = time.monotonic()
        self.train_s += now - self._epoch_started
        self._epoch_started = now

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # This is after the validation of the epoch. Checkpoints are kept after all other callbacks, so the best one
        # that is named here is that of the epochs before.
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        write_json(self._file(trainer), self.record(trainer))
        if self.epoch_lines if self.epoch_lines is not None else not self._console.is_terminal:
            values = {name: float(value) for name, value in trainer.callback_metrics.items()}
            shown = [name for name in ("train/loss", "val/abs_rel", "vendor/abs_rel") if name in values]
            self._console.print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
                + "".join(f"  {name} {values[name]:.4f}" for name in shown)
                + f"  {self.images_per_s:.1f} images/s",
                highlight=False,
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"wall_s": self._wall_s_so_far(), "train_s": self.train_s, "train_images": self._train_images}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._wall_s = state_dict["wall_s"]
        self.train_s = state_dict["train_s"]
        self._train_images = state_dict["train_images"]

    def record(self, trainer: Trainer, metrics: dict[str, float] | None = None) -> dict[str, Any]:
        """The record of the run so far.

        Args:
            trainer: the trainer of the run.
            metrics: metrics of the best checkpoint; the metrics of the last validation if not given.
        """
        checkpoint: Any = trainer.checkpoint_callback
        if metrics is None:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return {
            "metrics": {name: round(value, 6) for name, value in sorted(metrics.items())},
            "protocol": trainer.lightning_module.val_metrics.protocol,  # type: ignore[union-attr]
            "best_checkpoint": getattr(checkpoint, "best_model_path", "") or None,
            # current_epoch lags behind until fit ends; .ready would, after a resume in the middle of an epoch.
            "epochs": trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
            "steps": trainer.global_step,
            "wall_s": round(self._wall_s_so_far(), 1),
            "train_images_per_s": round(self.images_per_s, 2),
            "seed": trainer.datamodule.seed,  # type: ignore[attr-defined]
            "threads": torch.get_num_threads(),  # sums are split among them: the last digits depend on their number
            "versions": package_versions(),
        }

    def write(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Write the final record, with the metrics of the best checkpoint."""
        write_json(self._file(trainer), self.record(trainer, metrics))

    def _wall_s_so_far(self) -> float:
        running = time.monotonic() - self._fit_started if self._fit_started else 0.0
        return self._wall_s + running

    def _file(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / runs.SUMMARY_FILE
