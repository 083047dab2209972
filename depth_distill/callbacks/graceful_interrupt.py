"""Ctrl-C and SIGTERM end a run between two batches, with a checkpoint to go on from."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import SIGTERMException
from typing_extensions import override

from depth_distill.display.console import plain_console
from depth_distill.exit_codes import TERMINATED
from depth_distill.runs import LAST_CHECKPOINT


class GracefulInterrupt(Callback):
    """Let the batch in progress finish before Ctrl-C or SIGTERM takes effect; a second Ctrl-C stops at once.

    Stopping between optimizer steps is what makes the resumed run exact: in the middle of a batch, running statistics
    would have been updated without the weights, and in the middle of gradient accumulation gradients would be lost. The
    checkpoint is written by :func:`~depth_distill.callbacks.checkpoints.best_and_last`. During validation the interrupt
    waits for its end, because averaged weights may be in place of the trained ones. With several processes all stop
    after the same batch, whichever of them got the signal.

    A run that SIGTERM ends has exit code 143, so that a scheduler does not take it for a finished one.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for each in (signal.SIGINT, signal.SIGTERM):
                self._previous[each] = signal.signal(each, self._handle)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_requested(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            self._stop_if_requested(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()
        if isinstance(exception, SIGTERMException):  # Lightning's own, outside of training
            exception.code = TERMINATED
        if trainer.state.fn != "fit" or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for each in trainer.checkpoint_callbacks:  # they come after this one: Lightning puts them last
            if isinstance(each, ModelCheckpoint) and each.dirpath is not None:
                last = Path(each.dirpath) / LAST_CHECKPOINT
                if last.is_file() or (each.save_on_exception and trainer.global_step):
                    rank_zero_info(f"to go on from {last}, give it to fit as --ckpt_path")
                    break

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(signum)
        self._restore()
        again = "; press Ctrl-C again to stop at once and lose it" if self._received == signal.SIGINT else ""
        plain_console(stderr=True).print(f"\nstopping after this batch{again}")

    def _stop_if_requested(self, trainer: Trainer) -> None:
        def in_any_process(decision: bool) -> bool:
            return trainer.strategy.reduce_boolean_decision(decision, all=False)

        if in_any_process(self._received is not None):
            raise SystemExit(TERMINATED) if in_any_process(self._received == signal.SIGTERM) else KeyboardInterrupt

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
