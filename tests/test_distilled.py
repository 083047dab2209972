"""Distillation on the command line, end to end: what it prints, keeps and gives back."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from depth_distill.cli import main
from depth_distill.errors import ConfigError
from depth_distill.lightning_cli import DataCLI, build_cli
from depth_distill.models import DepthNet
from depth_distill.tasks import DistillationTask
from tests.distilled_run import config, fit
from tests.tasks.small_distillation import same_weights

ROOT = Path(__file__).parents[1]


def test_a_run_ends_with_both_tables_and_its_best_checkpoint(distilled_run):
    checkpoint, printed = distilled_run
    printed = " ".join(printed.split())  # a narrow terminal wraps titles
    assert "val: per-image mean" in printed
    assert "val, after the tool chain's own PTQ: per-image mean" in printed
    summary = json.loads((checkpoint.parents[1] / "summary.json").read_text())
    assert f"-vendor_abs_rel{summary['metrics']['vendor/abs_rel']:.4f}.ckpt" in summary["best_checkpoint"]
    assert {"val/abs_rel", "vendor/abs_rel", "vendor/delta1"} <= summary["metrics"].keys()


def test_the_teacher_is_not_in_the_checkpoint(distilled_run):
    names = torch.load(distilled_run[0], weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"network"}


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_every_command_takes_the_checkpoint_of_a_student(distilled_run, tmp_path, command, capsys):
    run = distilled_run[0].parents[1]
    summary = json.loads((run / "summary.json").read_text())
    words = [command, "--config", str(run / "config.yaml"), "--ckpt_path", summary["best_checkpoint"]]
    assert main([*words, "--run_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    if command == "predict":
        assert len(list((tmp_path / "predictions" / "depth").rglob("*.png"))) == 5
    else:
        assert f"{summary['metrics']['vendor/abs_rel']:.4f}" in printed


def test_a_float_student_loads_without_the_command_line(tmp_path, trained_checkpoint):
    checkpoint, _ = fit(tmp_path, trained_checkpoint, quantized=False)
    loaded = DistillationTask.load_from_checkpoint(checkpoint, weights_only=True)
    assert isinstance(loaded.network, DepthNet)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    same_weights(loaded.state_dict(), state)


def test_a_quantized_student_loads_by_its_run_alone(distilled_run):
    # Its graph is made by the callback FakeQuant, which is not among the hyperparameters of the task.
    with pytest.raises(ConfigError, match=r"keys are missing \(encoder.* are unexpected \(graph"):
        DistillationTask.load_from_checkpoint(distilled_run[0], weights_only=True)


def test_learned_weights_of_the_terms_are_one_line(tmp_path):
    values = config("teacher.ckpt")
    values["model"]["init_args"]["balance"] = "UncertaintyWeights"
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    task = build_cli(DataCLI, ["--config", str(tmp_path / "a.yaml")], run=False).model
    assert type(task.balance).__name__ == "UncertaintyWeights"
    assert task.balance.weights == {"output": 1.0, "feature": 0.5, "hint": 0.3}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_weights_of_an_uninterrupted_one(tmp_path, trained_checkpoint):
    # Before the first validation there is no vendor/abs_rel yet, and nothing is kept: the process dies in the second
    # epoch, after 2 of its 4 steps.
    epochs = ["--trainer.max_epochs", "3", "--panels.every_n_epochs", "0"]
    every_step = ["--checkpoint.every_n_train_steps", "1"]
    whole, _ = fit(tmp_path / "whole", trained_checkpoint, words=[*epochs, *every_step])

    values = config(trained_checkpoint)
    values["trainer"]["callbacks"].append({"class_path": "tests.killed.KillAt", "init_args": {"step": 6}})
    (tmp_path / "killed.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    words = ["fit", "--config", str(tmp_path / "killed.yaml"), "--run_dir", str(run), *epochs, *every_step]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-m", "depth_distill", *words], cwd=ROOT, env=environment, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 6

    resumed = ["fit", "--config", str(tmp_path / "whole" / "distilled.yaml"), "--ckpt_path", str(last)]
    assert main([*resumed, *epochs, *every_step]) == 0
    one, other = (torch.load(path, weights_only=True) for path in (whole, last))
    assert one["global_step"] == other["global_step"] == 12
    same_weights(one["state_dict"], other["state_dict"])
