"""Gradients that are being accumulated are part of a checkpoint."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

_KEY = "accumulated_gradients"


class KeepGradients(Callback):
    """Save gradients between two batches of one optimizer step, and go on from them.

    A checkpoint that a validation or a time limit makes in the middle of ``trainer.accumulate_grad_batches`` would
    otherwise lose the batches before. With several processes nothing is saved: each has gradients of its own, and one
    writes the checkpoint.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        # A batch counts as processed behind its backward pass, and as completed behind callbacks that save there.
        is_between = batches.ready == batches.processed and batches.processed % trainer.accumulate_grad_batches
        if is_between and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and trainer.world_size == 1:
            checkpoint[_KEY] = {name: each.grad for name, each in pl_module.named_parameters() if each.grad is not None}

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._kept = checkpoint.get(_KEY, {})

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, each in pl_module.named_parameters():
            if name in self._kept:
                each.grad = self._kept[name].to(each.device)
        self._kept = {}
