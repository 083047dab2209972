"""A run in two processes of which one gets SIGTERM: ``python -m tests.callbacks.interrupted_processes FOLDER RANK``."""

import os
import signal
import sys
from pathlib import Path

from pytorch_lightning import Callback

from depth_distill.callbacks import GracefulInterrupt, best_and_last
from tests.tasks.small_distillation import datamodule, task, trainer


class Terminate(Callback):
    """Send SIGTERM to one process in the middle of its second step."""

    def __init__(self, rank):
        self.rank = rank

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 1 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    callbacks = [GracefulInterrupt(), Terminate(rank), *best_and_last(folder, monitor="val/abs_rel")]
    trainer(folder, *callbacks, epochs=2, strategy="ddp", devices=2).fit(task(), datamodule(batch_size=2))
