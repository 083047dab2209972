"""DepthTask: it learns, logs what it promises, refuses data that does not fit, and resumes exactly."""

import math

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.optim import AdamW
from torchvision.transforms import v2

from depth_distill.data.datamodule import DepthDataModule
from depth_distill.errors import ConfigError
from depth_distill.losses import CompositeLoss, L1Loss, SILogLoss
from depth_distill.models import DepthNet
from depth_distill.tasks import DepthTask, WarmupCosineLR
from depth_distill.types import DepthRange
from tests.data.constant_depth import ConstantDepth

RANGE = DepthRange(0.5, 15.0)


def task(**kwargs):
    torch.manual_seed(0)
    defaults = {
        "network": DepthNet("mobilenetv3_small_050", decoder_channels=(16, 16, 8, 8, 8)),
        "loss": CompositeLoss({"silog": SILogLoss(), "l1": L1Loss()}, {"l1": 0.5}),
        "optimizer": lambda parameters: AdamW(parameters, lr=5e-3),
        "lr_scheduler": WarmupCosineLR,
    }
    return DepthTask(**defaults | kwargs)


def datamodule(**kwargs):
    defaults = {
        "train": ConstantDepth(16),
        "val": ConstantDepth(6),
        "image_size": (32, 32),
        "batch_size": 4,
        "num_workers": 0,
        "augment": [v2.ColorJitter(0.2)],
    }
    return DepthDataModule(**defaults | kwargs)


def trainer(folder, epochs=2, **kwargs):
    defaults = {
        "max_epochs": epochs,
        "accelerator": "cpu",
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**defaults | kwargs)


def test_every_term_and_metric_is_logged_under_its_name(tmp_path):
    run = trainer(tmp_path)
    run.fit(task(), datamodule())
    logged = set(run.callback_metrics)
    assert {"train/loss", "train/silog", "train/l1", "val/loss", "val/abs_rel", "val/delta1", "val/rmse"} <= logged
    assert {"val/abs_rel_0.5-2m", "val/abs_rel_2-5m", "val/abs_rel_5-15m"} <= logged
    total = run.callback_metrics["train/silog"] + 0.5 * run.callback_metrics["train/l1"]
    assert run.callback_metrics["train/loss"].item() == pytest.approx(total.item(), rel=1e-5)


def test_it_learns_depth_from_grey_level(tmp_path):
    run, fitted = trainer(tmp_path, epochs=40), task()
    before = trainer(tmp_path).validate(fitted, datamodule(), verbose=False)[0]["val/abs_rel"]
    run.fit(fitted, datamodule())
    assert run.callback_metrics["val/abs_rel"].item() < before / 3


def test_validation_metrics_are_those_of_the_whole_split(tmp_path):
    # 6 samples in batches of 4: a mean of batch means would weigh the last two double.
    fitted, data = task().eval(), datamodule()
    logged = trainer(tmp_path).validate(fitted, data, verbose=False)[0]["val/abs_rel"]
    errors = []
    with torch.no_grad():
        for index in range(6):
            view = data.evaluation_view("val")[index]
            error = (fitted(view.image[None]) - view.depth_m).abs() / view.depth_m
            errors.append(error.mean().item())
    assert logged == pytest.approx(sum(errors) / 6, rel=1e-5)


def test_evaluation_is_in_full_precision_under_mixed_precision_training(tmp_path):
    data, fitted = datamodule(), task()
    full, mixed = (
        trainer(tmp_path, precision=precision).validate(fitted, data, verbose=False)[0]["val/abs_rel"]
        for precision in ("32-true", "bf16-mixed")
    )
    assert full == mixed


def test_weight_decay_spares_vectors():
    groups = task()._parameter_groups()
    assert all(parameter.ndim > 1 for parameter in groups[0]["params"])
    assert groups[1]["weight_decay"] == 0.0
    assert all(parameter.ndim <= 1 for parameter in groups[1]["params"])
    assert len(task(decay_norm_and_bias=True)._parameter_groups()) == 1


def test_the_schedule_is_stepped_to_its_end(tmp_path):
    run = trainer(tmp_path)
    run.fit(task(), datamodule())
    (config,) = run.lr_scheduler_configs
    assert config.scheduler.last_epoch == run.global_step == 8
    assert config.scheduler.get_last_lr()[0] == pytest.approx(0.0, abs=1e-9)


def test_a_depth_range_that_differs_from_the_data_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"0\.5-10 m.*0\.5-15 m"):
        trainer(tmp_path).fit(task(), datamodule(depth_range=DepthRange(0.5, 10.0)))


def test_an_image_size_that_does_not_fit_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ConfigError, match="48 x 40"):
        trainer(tmp_path).fit(task(), datamodule(image_size=(48, 40)))


class StopAfter(ModelCheckpoint):
    """Raise after a number of steps, as a Ctrl-C would, and save."""

    def __init__(self, folder, steps):
        super().__init__(dirpath=folder, save_last=True, save_on_exception=True, save_top_k=0)
        self.steps = steps

    def on_train_batch_end(self, trainer, *args, **kwargs):
        super().on_train_batch_end(trainer, *args, **kwargs)
        if trainer.global_step == self.steps:
            raise InterruptedError("stop here")


@pytest.mark.parametrize("ema", [False, True], ids=["plain", "ema"])
@pytest.mark.parametrize("steps", [4, 6], ids=["after an epoch", "in mid-epoch"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, steps, ema):
    def callbacks():
        return [EMAWeightAveraging(decay=0.9)] if ema else []

    whole = task()
    trainer(tmp_path, epochs=3, callbacks=callbacks()).fit(whole, datamodule())

    with pytest.raises(InterruptedError):
        trainer(
            tmp_path, epochs=3, enable_checkpointing=True, callbacks=[*callbacks(), StopAfter(tmp_path, steps)]
        ).fit(task(), datamodule())
    torch.rand(17)  # a new process would not have the old generator's state
    resumed = task()
    run = trainer(tmp_path, epochs=3, callbacks=callbacks())
    run.fit(resumed, datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)

    assert run.global_step == 12
    for (name, expected), actual in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, actual), name


def test_no_weight_is_lost_to_nan_when_a_batch_has_no_depth(tmp_path, monkeypatch):
    monkeypatch.setattr("depth_distill.data.splits.check_scale", lambda *_: None)  # it refuses data like this
    fitted = task()
    trainer(tmp_path, epochs=1).fit(fitted, datamodule(train=ConstantDepth(8, depth_m=20.0), val=ConstantDepth(2)))
    assert all(math.isfinite(value.sum().item()) for value in fitted.state_dict().values())
