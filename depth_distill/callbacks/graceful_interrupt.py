"""Ctrl-C ends a run between two batches, with a checkpoint to go on from."""

import signal
import threading
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from typing_extensions import override


class GracefulInterrupt(Callback):
    """Let the batch in progress finish before Ctrl-C takes effect; a second Ctrl-C stops at once.

    Stopping between batches is what makes the resumed run exact: in the middle of one, running statistics would have
    been updated without the weights. The checkpoint is written by ``RunCheckpoint(save_on_exception=True)``. During
    validation the interrupt waits for its end, because averaged weights may be in place of the trained ones.
    """

    def __init__(self) -> None:
        self._requested = False
        self._previous: Any = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._requested = False
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_requested()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stop_if_requested()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._requested = True
        self._restore()
        Console(stderr=True).print("\nstopping after this batch; press Ctrl-C again to stop at once and lose it")

    def _stop_if_requested(self) -> None:
        if self._requested:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
