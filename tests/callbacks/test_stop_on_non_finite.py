"""StopOnNonFinite: what diverges ends with a message that names where, and without a checkpoint of it."""

import json
import math

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn

from depth_distill.callbacks import FakeQuant, StopOnNonFinite, best_and_last
from depth_distill.errors import DivergedError
from depth_distill.losses import CompositeLoss, L1Loss
from tests.tasks.small_distillation import STEPS_AN_EPOCH, datamodule, task, trainer

WEIGHT = "network.encoder.stem.0.weight"


def parameter_of(module):
    return module.network.get_parameter(WEIGHT.removeprefix("network."))


class Set(Callback):
    """Set one weight to a value before a step."""

    def __init__(self, step, value):
        self.step = step
        self.value = value

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            parameter_of(pl_module).data[0, 0, 0, 0] = self.value


class SetAfter(Set):
    """The same after a step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pass

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            parameter_of(pl_module).data[0, 0, 0, 0] = self.value


def diverging(folder, *callbacks, given=None, epochs=3, **kwargs):
    """The message of a run that diverges; its checkpoints are in the folder."""
    keepers = best_and_last(folder, monitor="val/abs_rel", **kwargs)
    run = trainer(folder, *callbacks, StopOnNonFinite(), *keepers, epochs=epochs)
    with pytest.raises(DivergedError) as caught:
        run.fit(given or task(), datamodule())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def checkpoints(folder):
    return {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.ckpt")}


def test_a_weight_is_named_with_epoch_and_step(tmp_path):
    message = diverging(tmp_path, Set(STEPS_AN_EPOCH + 1, math.nan))
    assert message.startswith(f"epoch 1, step {STEPS_AN_EPOCH + 1}: train/loss is nan")
    assert f"(the first that is not finite: {WEIGHT})" in message
    assert "lower learning rate" in message


def test_the_message_is_kept_in_the_run_folder_until_the_run_goes_on(tmp_path):
    message = diverging(tmp_path, Set(STEPS_AN_EPOCH + 1, math.nan))
    assert json.loads((tmp_path / "diverged.json").read_text()) == {"message": message}
    run = trainer(tmp_path, StopOnNonFinite(), epochs=1)
    run.fit(task(), datamodule())
    assert not (tmp_path / "diverged.json").exists()


def test_the_checkpoints_are_those_of_before(tmp_path):
    diverging(tmp_path, Set(STEPS_AN_EPOCH + 1, math.nan))
    found = checkpoints(tmp_path)
    assert "last.ckpt" in found
    assert {each["global_step"] for each in found.values()} == {STEPS_AN_EPOCH}


def test_before_the_first_checkpoint_there_is_none(tmp_path):
    diverging(tmp_path, Set(1, math.nan))
    assert checkpoints(tmp_path) == {}


def test_a_layer_is_named_where_weights_are_finite(tmp_path):
    # The sum of products with the largest float32 overflows; the weight itself does not.
    message = diverging(tmp_path, Set(1, torch.finfo(torch.float32).max))
    assert message.startswith("epoch 0, step 1: train/loss is ")
    assert "output of layer encoder.stem.0" in message


class Overflows(nn.Module):
    def forward(self, prediction, target, valid):
        return prediction.sum() * math.inf


def test_a_term_is_named_where_layers_are_finite(tmp_path):
    given = task(output=CompositeLoss({"l1": L1Loss(), "bad": Overflows()}))
    message = diverging(tmp_path, given=given)
    assert message.startswith("epoch 0, step 0: train/loss is inf")
    assert "(the first that is not finite: train/output" in message


@pytest.mark.parametrize("options", [{}, {"every_n_train_steps": 1}], ids=["before validation", "before a checkpoint"])
def test_a_step_that_leaves_a_weight_not_finite_is_not_kept(tmp_path, options):
    message = diverging(tmp_path, SetAfter(STEPS_AN_EPOCH, math.inf), **options)
    assert message.startswith(f"epoch 0, step {STEPS_AN_EPOCH}: a weight is not finite")
    assert all(each["global_step"] < STEPS_AN_EPOCH for each in checkpoints(tmp_path).values())


class LogNothingGood(Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("watched", math.nan)


def test_a_metric_that_is_monitored_is_named(tmp_path):
    stopping = EarlyStopping("watched", check_finite=False)
    message = diverging(tmp_path, LogNothingGood(), stopping)
    assert message.startswith(f"epoch 0, step {STEPS_AN_EPOCH}: watched is nan")
    assert not any("abs_rel" in name for name in checkpoints(tmp_path))


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_an_evaluation_stops_too_and_names_the_layer(tmp_path, stage):
    given = task()
    parameter_of(given).data[0, 0, 0, 0] = math.nan
    with pytest.raises(DivergedError, match=r"^predicted depth is not finite \(.*weight encoder\.stem\.0\.weight\)"):
        getattr(trainer(tmp_path), stage)(given, datamodule())


@pytest.mark.parametrize("learnable", [(), ("weight", "activation")])
def test_quantizers_without_a_range_yet_are_no_reason(tmp_path, learnable):
    quantize = FakeQuant(start_epoch=1, learnable=learnable)
    run = trainer(tmp_path, quantize, StopOnNonFinite(), *best_and_last(tmp_path, monitor="vendor/abs_rel"), epochs=2)
    run.fit(task(), datamodule())
    assert run.global_step == 2 * STEPS_AN_EPOCH


def test_a_band_without_pixels_is_no_reason(tmp_path):
    run = trainer(tmp_path, StopOnNonFinite())
    given = task(bands_m=((0.5, 0.6), (100.0, 200.0)))
    run.fit(given, datamodule())
    assert run.callback_metrics["val/abs_rel_100-200m"].isnan()
