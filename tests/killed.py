"""Callbacks that end their process."""

import os
import signal

from pytorch_lightning import Callback


class KillAt(Callback):
    """A signal before the step after ``step`` begins; SIGKILL, as a power cut would, if not given."""

    def __init__(self, step: int, signum: int = int(signal.SIGKILL)) -> None:
        self.step = step
        self.signum = signum

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.signum)
