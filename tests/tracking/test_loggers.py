"""Loggers of a config: filled in for the run, built only where their package is there."""

import csv

import pytest
import yaml
from jsonargparse import Namespace

from depth_distill.cli import main
from depth_distill.errors import ConfigError
from depth_distill.loading.logger_values import with_folders
from depth_distill.tracking import loggers
from depth_distill.tracking.wandb_options import wandb_options
from tests.trained_run import CONFIG


def fit(tmp_path, *words, **trainer):
    values = CONFIG | {
        "trainer": CONFIG["trainer"]
        | {"limit_train_batches": 2, "limit_val_batches": 1, "log_every_n_steps": 1}
        | trainer
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values))
    return main(["fit", "--config", str(tmp_path / "small.yaml"), "--run_dir", str(tmp_path / "run"), *words])


def test_loggers_that_need_a_folder_get_that_of_the_run():
    csv_logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "."}}
    assert with_folders("CSVLogger") == csv_logger
    assert with_folders({"trainer": {"logger": ["CSVLogger", "WandbLogger"]}}) == {
        "trainer": {"logger": [csv_logger, "WandbLogger"]}
    }
    given = {"class_path": "CSVLogger", "init_args": {"save_dir": "/elsewhere", "name": "x"}}
    assert with_folders({"logger": given}) == {"logger": given}
    for other in (True, None, 3, "adam", {"trainer": {"max_epochs": 1}}, {"model": "CSVLogger"}):
        assert with_folders(other) == other


def test_a_logger_of_the_user_writes_into_the_run_folder_beside_the_log_of_every_run(tmp_path):
    assert fit(tmp_path, "--trainer.logger", "CSVLogger", "--trainer.logger.name", "mine") == 0
    run = tmp_path / "run"
    for log in (run / "metrics.csv", run / "mine" / "version_0" / "metrics.csv"):
        with log.open() as file:
            assert {"train/lr", "train/grad_norm", "val/abs_rel"} <= set(csv.DictReader(file).fieldnames or [])
    kept = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["logger"]
    assert kept["init_args"]["save_dir"] == "."  # the config runs again elsewhere


@pytest.mark.parametrize(("name", "package"), [("TensorBoardLogger", "tensorboard"), ("MLFlowLogger", "mlflow")])
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(name, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loggers, "find_spec", lambda module: None)
    assert fit(tmp_path, logger=[name, "CSVLogger"]) == 2
    error = capsys.readouterr().err
    assert f"error: trainer.logger: {name} needs the package {package}, which is not installed" in error
    assert f"pip install {package}" in error
    assert "Traceback" not in error


def test_tensorboard_gets_scalars_histograms_pictures_and_the_config(tmp_path):
    pytest.importorskip("tensorboard")
    assert fit(tmp_path, "--panels.every_n_epochs", "1", logger="TensorBoardLogger") == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # What the best checkpoint scores is logged after the end of fit, into a second file.
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload().Tags()
    assert {"train/lr", "val/abs_rel", "best/val/abs_rel"} <= set(found["scalars"])
    assert "val/panel" in found["images"]
    assert any(tag.startswith("layers/") for tag in found["histograms"])
    assert (tmp_path / "run" / "tensorboard" / "hparams.yaml").is_file()


def test_no_logger_is_none(tmp_path):
    assert fit(tmp_path, "--wandb", "true", logger=False) == 0
    assert not (tmp_path / "run" / "metrics.csv").exists()
    assert not (tmp_path / "run" / "wandb").exists()


class Environment:
    def __init__(self, monkeypatch, tmp_path):
        self.set = monkeypatch.setenv
        for name in ("API_KEY", "MODE", "PROJECT", "NAME", "RUN_ID", "SWEEP_ID", "DISABLED"):
            monkeypatch.delenv(f"WANDB_{name}", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def environment(monkeypatch, tmp_path):
    return Environment(monkeypatch, tmp_path)


def test_without_a_key_weights_and_biases_is_offline(environment, tmp_path):
    options = wandb_options(tmp_path / "small" / "now", "fit", {"project": None, "save_dir": "."})
    assert (options["mode"], options["project"], options["name"]) == ("offline", "depth-distill", "small/now")
    assert options["save_dir"] == str(tmp_path / "small" / "now")
    assert wandb_options(tmp_path, "fit", {"mode": "online"})["mode"] == "offline"  # it would ask


def test_the_environment_of_weights_and_biases_is_honoured(environment, tmp_path):
    environment.set("WANDB_API_KEY", "secret")
    environment.set("WANDB_PROJECT", "kitchen")
    assert wandb_options(tmp_path, "fit", {})["mode"] is None  # wandb's own default: online
    assert wandb_options(tmp_path, "fit", {})["project"] == "kitchen"
    assert wandb_options(tmp_path, "fit", {"project": "of the config"})["project"] == "of the config"
    for asked, mode in (("disabled", "disabled"), ("offline", "offline"), ("dryrun", "offline"), ("online", None)):
        environment.set("WANDB_MODE", asked)
        assert wandb_options(tmp_path, "fit", {})["mode"] == mode
    environment.set("WANDB_ENTITY", "cooks")
    assert wandb_options(tmp_path, "fit", {})["entity"] == "cooks"
    environment.set("WANDB_RUN_ID", "of-the-agent")
    assert "id" not in wandb_options(tmp_path, "fit", {})


def test_what_is_no_logger_of_ours_is_left_as_it_is(monkeypatch):
    assert loggers.fill_in(None, None, "fit") is None
    assert loggers.fill_in(True, None, "fit") is True
    monkeypatch.setattr(loggers, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match="CometLogger needs the package comet-ml"):
        loggers._require_package("CometLogger")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("CometLogger", {"api_key": "hush"}, "api_key of CometLogger .* set COMET_API_KEY in the environment"),
        ("NeptuneLogger", {"api_token": "hush"}, "set NEPTUNE_API_TOKEN"),
        ("MLFlowLogger", {"tracking_uri": "https://me:hush@host"}, "set MLFLOW_TRACKING_USERNAME and"),
    ],
)
def test_a_secret_in_a_config_is_refused_before_it_is_written_anywhere(name, arguments, message, tmp_path):
    configured = Namespace(class_path=f"loggers.{name}", init_args=Namespace(**arguments))
    with pytest.raises(ConfigError, match=message) as error:
        loggers.fill_in([configured], tmp_path, "fit")
    assert "hush" not in str(error.value)
    harmless = Namespace(experiment_key="of a run", tracking_uri="http://host:5000", api_key=None)
    loggers.fill_in(Namespace(class_path="mine.Logger", init_args=harmless), tmp_path, "fit")
