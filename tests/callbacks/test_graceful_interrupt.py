"""GracefulInterrupt: a real Ctrl-C ends the run between two batches, and nothing is lost."""

import os
import signal

import pytest
import torch
from pytorch_lightning import Callback

from depth_distill.callbacks import GracefulInterrupt, RunCheckpoint
from tests.callbacks.small_run import STEPS_AN_EPOCH, datamodule, task, trainer


@pytest.fixture(autouse=True)
def _own_signal_handler():
    """Lightning ignores SIGINT from the first one on, because the process is about to end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class PressCtrlC(Callback):
    """Press it in the middle of a batch: after the backward pass, before the optimizer's step."""

    def __init__(self, step, times=1):
        self.step = step
        self.times = times

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


class PressCtrlCInValidation(Callback):
    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 0:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(folder, press, epochs=3):
    """A run that ends by Ctrl-C."""
    checkpoint = RunCheckpoint(folder, save_last=True, save_top_k=0, save_on_exception=True)
    run = trainer(folder, GracefulInterrupt(), press, checkpoint, epochs=epochs, enable_checkpointing=True)
    with pytest.raises(SystemExit) as caught:
        run.fit(task(), datamodule())
    assert caught.value.code == 1
    return run


def steps_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["global_step"]


def test_the_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, capsys):
    whole = task()
    trainer(tmp_path, epochs=3).fit(whole, datamodule())

    run = interrupted(tmp_path, PressCtrlC(step=STEPS_AN_EPOCH + 1))
    assert run.global_step == STEPS_AN_EPOCH + 2  # the batch in progress was finished
    assert "stopping after this batch" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
    assert steps_of(tmp_path / "last.ckpt") == STEPS_AN_EPOCH + 2

    torch.rand(17)  # a new process would not have the old generator's state
    resumed = task()
    again = trainer(tmp_path, epochs=3)
    again.fit(resumed, datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert again.global_step == 3 * STEPS_AN_EPOCH
    for (name, expected), actual in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, actual), name


def test_a_validation_in_progress_is_finished(tmp_path):
    run = interrupted(tmp_path, PressCtrlCInValidation())
    assert run.global_step == STEPS_AN_EPOCH
    assert "val/abs_rel" in run.callback_metrics
    assert steps_of(tmp_path / "last.ckpt") == STEPS_AN_EPOCH


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    run = interrupted(tmp_path, PressCtrlC(step=2, times=2))
    assert run.global_step == 2  # the third step was not taken


def test_after_the_run_ctrl_c_is_as_before(tmp_path):
    trainer(tmp_path, GracefulInterrupt()).fit(task(), datamodule())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
