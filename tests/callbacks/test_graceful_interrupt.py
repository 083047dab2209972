"""GracefulInterrupt: a real Ctrl-C ends the run between two batches, and nothing is lost."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from depth_distill.callbacks import GracefulInterrupt, best_and_last
from tests.callbacks.small_run import STEPS_AN_EPOCH, datamodule, task, trainer


@pytest.fixture(autouse=True)
def _own_signal_handler():
    """Lightning ignores SIGINT from the first one on, because the process is about to end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class PressCtrlC(Callback):
    """Press it, or send a signal, in the middle of a batch: after the backward pass, before the optimizer's step."""

    def __init__(self, step, times=1, signum=signal.SIGINT):
        self.step = step
        self.times = times
        self.signum = signum

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.step:
            while self.times:
                self.times -= 1
                os.kill(os.getpid(), self.signum)


class PressCtrlCInValidation(Callback):
    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 0:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(folder, press, epochs=3, code=1, **kwargs):
    """A run that ends by a signal."""
    checkpoints = best_and_last(folder, save_top_k=0)
    run = trainer(folder, GracefulInterrupt(), press, *checkpoints, epochs=epochs, enable_checkpointing=True, **kwargs)
    with pytest.raises(SystemExit) as caught:
        run.fit(task(), datamodule())
    assert caught.value.code == code
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


def test_sigterm_saves_and_ends_with_143(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    run = interrupted(tmp_path, PressCtrlC(step=2, signum=signal.SIGTERM), code=143)
    assert run.global_step == 3
    assert capsys.readouterr().err == "\nstopping after this batch\n"
    assert steps_of(tmp_path / "last.ckpt") == 3
    assert signal.getsignal(signal.SIGTERM) is before


class SendSigtermInEvaluation(Callback):
    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_an_evaluation_with_143(tmp_path):
    run = trainer(tmp_path, GracefulInterrupt(), SendSigtermInEvaluation())
    with pytest.raises(SystemExit) as caught:
        run.validate(task(), datamodule(), verbose=False)
    assert caught.value.code == 143


def test_gradients_that_are_being_accumulated_are_not_lost(tmp_path):
    whole = task()
    trainer(tmp_path, epochs=2, accumulate_grad_batches=2).fit(whole, datamodule())
    run = interrupted(tmp_path, PressCtrlC(step=0), epochs=2, accumulate_grad_batches=2)  # in the first of two batches
    assert run.global_step == steps_of(tmp_path / "last.ckpt") == 1
    resumed = task()
    again = trainer(tmp_path, epochs=2, accumulate_grad_batches=2)
    again.fit(resumed, datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    for (name, expected), actual in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, actual), name


def test_how_to_go_on_is_said_only_where_there_is_a_checkpoint(tmp_path, caplog):
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        for each in (logger, logging.getLogger("pytorch_lightning")):
            patch.setattr(each, "propagate", True)
        interrupted(tmp_path / "run", PressCtrlC(step=1))
        assert f"to go on from {tmp_path / 'run' / 'last.ckpt'}, give it to fit as --ckpt_path" in caplog.text
        caplog.clear()
        keepers = best_and_last(tmp_path / "failed", save_top_k=0)
        run = trainer(tmp_path, GracefulInterrupt(), FailAtStart(), *keepers, enable_checkpointing=True)
        with pytest.raises(ValueError, match="not yet"):
            run.fit(task(), datamodule())
        assert "to go on" not in caplog.text


class FailAtStart(Callback):
    def on_train_start(self, trainer, pl_module):
        raise ValueError("not yet")


def test_after_the_run_ctrl_c_is_as_before(tmp_path):
    trainer(tmp_path, GracefulInterrupt()).fit(task(), datamodule())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_both_after_the_same_step(tmp_path, rank):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.callbacks.interrupted_processes", str(tmp_path), str(rank)]
    done = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, timeout=300)
    assert done.returncode == 143
    assert steps_of(tmp_path / "last.ckpt") == 2
