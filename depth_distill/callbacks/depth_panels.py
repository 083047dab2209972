"""Pictures of what the network sees and predicts, drawn at the end of validation and test."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from depth_distill.display.pictures import PanelRow, depth_panel, save_figure
from depth_distill.errors import ConfigError
from depth_distill.tracking.media import log_picture
from depth_distill.types import DepthBatch


class DepthPanels(Callback):
    """Save a panel of evenly spread samples: image, ground truth, prediction, error.

    The files are in ``pictures/`` of the run folder, and go to Weights & Biases, TensorBoard and MLflow where a run
    logs there. The samples are the same ones in every epoch.

    Args:
        count: number of samples per panel.
        every_n_epochs: number of epochs of ``fit`` per panel; the last epoch always gets one. With 0 none is drawn.

    Raises:
        ConfigError: one of them is negative.
    """

    def __init__(self, count: int = 4, every_n_epochs: int = 5) -> None:
        for key, value in (("count", count), ("every_n_epochs", every_n_epochs)):
            if value < 0:
                raise ConfigError(f"panels.{key}: received {value}, expected 0 or more")
        self.count = count
        self.every_n_epochs = every_n_epochs
        self._wanted: set[int] = set()
        self._rows: dict[int, PanelRow] = {}

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, "val")

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: DepthBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collect(trainer, "val", outputs, batch)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "val")

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, "test")

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: DepthBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collect(trainer, "test", outputs, batch)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "test")

    def _start(self, trainer: Trainer, split: str) -> None:
        self._rows = {}
        self._wanted = set()
        if trainer.sanity_checking or not trainer.is_global_zero or not self._is_due(trainer):
            return
        size = len(trainer.datamodule.evaluation_view(split))  # type: ignore[attr-defined]
        self._wanted = set(torch.linspace(0, size - 1, min(self.count, size)).long().tolist())

    def _is_due(self, trainer: Trainer) -> bool:
        if self.every_n_epochs == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        if trainer.state.fn != "fit":
            return True
        done = trainer.current_epoch + 1
        return done % self.every_n_epochs == 0 or done == trainer.max_epochs

    def _collect(self, trainer: Trainer, split: str, depth_m: Tensor, batch: DepthBatch) -> None:
        for position, index in enumerate(batch.sample_index.tolist()):
            if index not in self._wanted:
                continue
            datamodule = trainer.datamodule  # type: ignore[attr-defined]
            self._rows[index] = PanelRow(
                title=datamodule.evaluation_view(split).dataset.name(index),
                image=datamodule.normalize.inverse(batch.image[position]).cpu(),
                prediction_m=depth_m[position].cpu(),
                depth_m=batch.depth_m[position].cpu(),
                valid=batch.valid[position].cpu(),
            )

    def _draw(self, trainer: Trainer, split: str) -> None:
        if not self._rows:
            return
        stage = f"{split}-epoch{trainer.current_epoch:03d}" if trainer.state.fn == "fit" else split
        figure = depth_panel([self._rows[index] for index in sorted(self._rows)])
        path = Path(trainer.default_root_dir) / "pictures" / f"{stage}.png"
        save_figure(figure, path)
        log_picture(trainer.loggers, f"{split}/panel", path, trainer.global_step)
        self._rows = {}
