"""KeepGradients: a run that is killed in the middle of gradient accumulation ends as if it had not been."""

import pytest
import torch
from pytorch_lightning import Callback

from depth_distill.callbacks import KeepGradients, best_and_last
from tests.callbacks.small_run import datamodule, task, trainer

# Epochs of 4 batches, 2 of them a step: the validation after batch 3 leaves a checkpoint between two of one step.
OPTIONS = {"epochs": 2, "accumulate_grad_batches": 2, "val_check_interval": 3}


class KillBeforeBatch(Callback):
    """End the run before a batch of the first epoch, without a checkpoint of that moment."""

    def __init__(self, batch_idx):
        self.batch_idx = batch_idx

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch_idx:
            raise ValueError("killed")


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_is_killed_between_two_batches_of_a_step(tmp_path, kept):
    callbacks = [KeepGradients()] if kept else []
    whole = task()
    trainer(tmp_path, *callbacks, **OPTIONS).fit(whole, datamodule())

    keepers = best_and_last(tmp_path, save_top_k=0, save_on_exception=False)
    run = trainer(tmp_path, *callbacks, KillBeforeBatch(3), *keepers, enable_checkpointing=True, **OPTIONS)
    with pytest.raises(ValueError, match="killed"):
        run.fit(task(), datamodule())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    assert ("accumulated_gradients" in saved) == kept

    resumed = task()
    again = trainer(tmp_path, *callbacks, **OPTIONS)
    again.fit(resumed, datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert again.global_step == 4
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(expected, actual) for expected, actual in pairs) == kept


def test_after_a_step_there_is_nothing_to_keep(tmp_path):
    run = trainer(tmp_path, KeepGradients(), accumulate_grad_batches=2)
    run.fit(task(), datamodule())
    run.save_checkpoint(tmp_path / "a.ckpt")
    assert "accumulated_gradients" not in torch.load(tmp_path / "a.ckpt", weights_only=True)


class SaveAt(Callback):
    """Write a checkpoint behind a batch, as a time limit does."""

    def __init__(self, path, batch_idx):
        self.path, self.batch_idx = path, batch_idx

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.batch_idx:
            trainer.save_checkpoint(self.path)


class FailBehindBackward(Callback):
    """Save where the gradients hold a batch that counts as not trained."""

    def __init__(self, path):
        self.path, self.batches = path, 0

    def on_after_backward(self, trainer, pl_module):
        self.batches += 1
        if self.batches == 3:
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_behind_a_batch_has_that_batch(tmp_path):
    whole = task()
    trainer(tmp_path, KeepGradients(), accumulate_grad_batches=2).fit(whole, datamodule())
    saving = SaveAt(tmp_path / "a.ckpt", 2)
    trainer(tmp_path, KeepGradients(), saving, accumulate_grad_batches=2).fit(task(), datamodule())
    assert "accumulated_gradients" in torch.load(tmp_path / "a.ckpt", weights_only=True)
    resumed = task()
    again = trainer(tmp_path, KeepGradients(), accumulate_grad_batches=2)
    again.fit(resumed, datamodule(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(expected, actual) for expected, actual in pairs)


def test_a_batch_that_will_be_repeated_is_not_kept(tmp_path):
    run = trainer(tmp_path, KeepGradients(), FailBehindBackward(tmp_path / "a.ckpt"), accumulate_grad_batches=2)
    run.fit(task(), datamodule())
    assert "accumulated_gradients" not in torch.load(tmp_path / "a.ckpt", weights_only=True)
