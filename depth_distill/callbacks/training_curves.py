"""What a run tells its loggers beside losses and metrics: learning rate, gradient norm, and what it learns from."""

import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from depth_distill.tracking.results import log_teacher, prefer_best


class TrainingCurves(Callback):
    """Log ``train/lr`` and ``train/grad_norm``, and tell Weights & Biases what the run is judged by and learns from.

    The norm is that of all gradients of a step before they are clipped. In Weights & Biases the summary of the
    monitored metric is its best value, and the teacher of a distillation is an artifact that the run uses. An epoch of
    fewer steps than ``trainer.log_every_n_steps`` is logged once, so that a small data set has curves, too.
    """

    logged_metrics = ("train/lr", "train/grad_norm")

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        keeper: Any = trainer.checkpoint_callback
        if trainer.is_global_zero and getattr(keeper, "monitor", None) is not None:  # RunLinks is no keeper
            prefer_best(trainer.loggers, keeper.monitor, keeper.mode)
        teacher = getattr(pl_module, "teacher_checkpoint", None)
        if trainer.is_global_zero and teacher is not None:
            log_teacher(trainer.loggers, Path(teacher))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        trainer.log_every_n_steps = max(1, min(trainer.log_every_n_steps, steps))  # type: ignore[attr-defined]

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
        if not gradients:
            return
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)).float())
        pl_module.log("train/lr", float(optimizer.param_groups[0]["lr"]))
        pl_module.log("train/grad_norm", norm)
