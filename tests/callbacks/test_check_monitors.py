"""CheckMonitors: a metric that nothing logs is found before the first step."""

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping

from depth_distill.callbacks import CheckMonitors, FakeQuant, FeatureHooks, best_and_last
from depth_distill.callbacks.check_monitors import monitors
from depth_distill.errors import ConfigError
from depth_distill.losses import CompositeLoss, L1Loss
from tests.callbacks import small_run
from tests.tasks.small_distillation import datamodule, pair, task, trainer


def fit(folder, monitor, *callbacks, given=None, **kwargs):
    run = trainer(folder, *callbacks, CheckMonitors(), *best_and_last(folder, monitor=monitor, **kwargs))
    try:
        run.fit(given or task(), datamodule())
    finally:
        fit.steps = run.global_step
    return run


@pytest.mark.parametrize(
    ("monitor", "nearest"),
    [("val/absrel", "val/abs_rel"), ("val_abs_rel", "val/abs_rel"), ("val/abs_rel_5-15", "val/abs_rel_5-15m")],
)
def test_a_misspelt_metric_is_found_before_the_first_step(tmp_path, monitor, nearest):
    with pytest.raises(ConfigError) as caught:
        fit(tmp_path, monitor)
    assert f"ModelCheckpoint monitors {monitor!r}, which nothing logs; did you mean {nearest!r}?" in str(caught.value)
    assert "val/rmse" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fit.steps == 0
    assert list(tmp_path.glob("*.ckpt")) == []


def test_that_of_early_stopping_too(tmp_path):
    with pytest.raises(ConfigError, match=r"EarlyStopping monitors 'val/rmes', .* did you mean 'val/rmse'"):
        fit(tmp_path, "val/abs_rel", EarlyStopping("val/rmes"))


def test_the_vendor_metrics_need_fake_quant(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'val/abs_rel'"):
        fit(tmp_path, "vendor/abs_rel")
    assert fit(tmp_path, "vendor/abs_rel", FakeQuant()).global_step


class LogsItsOwn(Callback):
    logged_metrics = ("mine",)

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("mine", 1.0)


def test_a_callback_names_what_it_logs(tmp_path):
    assert fit(tmp_path, "mine", LogsItsOwn()).global_step


def test_a_callback_that_monitors_nothing_is_left_alone(tmp_path):
    run = fit(tmp_path, None)
    assert run.global_step
    assert monitors(run) == []


def logged(run):
    return {name for name in run.callback_metrics if name.startswith(("train/", "val/"))}


def test_the_names_of_a_depth_task_are_those_that_it_logs(tmp_path):
    given = small_run.task()
    given.code_loss = CompositeLoss({"codes": L1Loss()})
    run = small_run.trainer(tmp_path)
    run.fit(given, small_run.datamodule())
    assert logged(run) == set(given.logged_metrics())


class Penalty(L1Loss):
    def forward(self, network):
        return sum(parameter.abs().mean() for parameter in network.parameters())


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"features": [pair()], "hints": [pair("decoder.up"), pair("decoder.up")]},
        {"supervised": CompositeLoss({"l1": L1Loss()}), "gamma": 0.5, "regularizers": {"size": Penalty()}},
    ],
    ids=["output", "features and hints", "supervised and regularizers"],
)
def test_the_names_of_a_distillation_are_those_that_it_logs(tmp_path, kwargs):
    names = set()

    class Collect(Callback):
        def on_fit_start(self, trainer, pl_module):
            names.update(pl_module.logged_metrics())

    run = trainer(tmp_path, FeatureHooks(), Collect())
    run.fit(task(**kwargs), datamodule())
    assert logged(run) == names


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"limit_val_batches": 0}, "trainer.limit_val_batches is 0"),
        ({"check_val_every_n_epoch": 5}, "trainer.check_val_every_n_epoch is 5 and trainer.max_epochs 1"),
    ],
)
def test_a_metric_of_a_validation_that_never_comes_is_found_before_the_first_step(tmp_path, options, why):
    keepers = best_and_last(tmp_path, monitor="val/abs_rel")
    run = trainer(tmp_path, CheckMonitors(), *keepers, **options)
    with pytest.raises(ConfigError, match=rf"monitors 'val/abs_rel', but this run never validates, because {why}"):
        run.fit(task(), datamodule())
    assert run.global_step == 0


def test_without_validation_a_metric_of_training_is_monitored(tmp_path):
    keepers = best_and_last(tmp_path, monitor="train/loss")
    run = trainer(tmp_path, CheckMonitors(), *keepers, limit_val_batches=0)
    run.fit(task(), datamodule())
    assert (tmp_path / "last.ckpt").is_file()


def test_a_metric_in_the_name_of_checkpoints_that_nothing_logs_is_found(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint\.filename has \{val/absrel\}, .* did you mean 'val/abs_rel'"):
        fit(tmp_path, "val/abs_rel", filename="{epoch:03d}-{val/absrel:.4f}")
    assert fit.steps == 0
