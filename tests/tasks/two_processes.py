"""A run in two processes, to be started as a program of its own: a test that forks after torch has run may hang.

``python -m tests.tasks.two_processes FOLDER KIND`` writes what :func:`fit` keeps in each process: ``0.pt``, ``1.pt``.
"""

import sys
from pathlib import Path

import torch
from pytorch_lightning import Callback

from depth_distill.callbacks import FakeQuant, FeatureHooks, TeacherCache
from depth_distill.losses import AttentionTransfer
from tests.tasks.small_distillation import Losses, SmallNet, datamodule, pair, task, trainer


class Seed(Callback):
    """Adapters start from the same random numbers in any number of processes."""

    def setup(self, trainer, pl_module, stage):
        torch.manual_seed(0)


class Keep(Callback):
    """Write what a process ends with."""

    def __init__(self, folder, losses):
        self.folder = folder
        self.losses = losses

    def on_train_end(self, trainer, pl_module):
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        kept = {"losses": self.losses.total, "weights": pl_module.state_dict(), "metrics": metrics}
        torch.save(kept, self.folder / f"{trainer.global_rank}.pt")


def fit(folder, processes, kind):
    """Two epochs of four samples a step, whatever the number of processes; written to ``folder``.

    ``kind`` is ``calibrated``, ``learned`` (ranges have gradients) or ``cached`` (teacher outputs come from the disk).
    """
    losses = Losses()
    learnable = ("activation", "weight") if kind == "learned" else ()
    callbacks = [
        Seed(),
        FakeQuant(ranges="calibration", learnable=learnable),
        FeatureHooks(),
        losses,
        Keep(folder, losses),
    ]
    if kind == "cached":
        callbacks.insert(3, TeacherCache(folder / "cache", dtype="float32"))
    fitted = task(
        teacher=SmallNet(width=12, seed=1),
        features=[pair("encoder.layer?")],
        hints=[pair("decoder.up", loss=AttentionTransfer())],
    )
    strategy = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {"devices": 1}
    trainer(folder, *callbacks, epochs=2, **strategy).fit(
        fitted, datamodule(batch_size=4 // processes, views=1 if kind == "cached" else None)
    )


if __name__ == "__main__":
    fit(Path(sys.argv[1]), 2, sys.argv[2])
