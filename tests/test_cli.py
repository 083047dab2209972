"""The command line, end to end, on configs written to a temporary folder and on those that are shipped."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from depth_distill.cli import main
from depth_distill.tasks import DepthTask

CONFIGS = Path(__file__).parents[1] / "configs"

SMALL = {
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "num_sanity_val_steps": 0, "log_every_n_steps": 1},
    "data": {
        "train": {"class_path": "SyntheticDepth", "init_args": {"length": 8, "size": [32, 64]}},
        "val": {"class_path": "SyntheticDepth", "init_args": {"length": 3, "size": [32, 64], "seed": 1}},
        "image_size": [32, 64],
        "batch_size": 4,
        "num_workers": 0,
    },
    "model": {
        "class_path": "DepthTask",
        "init_args": {
            "network": {
                "class_path": "DepthNet",
                "init_args": {
                    "encoder": "mobilenetv3_small_050",
                    "decoder_channels": [16, 16, 8, 8, 8],
                    "depth_range": {"min_m": "${data.depth_range.min_m}", "max_m": "${data.depth_range.max_m}"},
                },
            },
            "loss": {"class_path": "CompositeLoss", "init_args": {"terms": {"silog": {"class_path": "SILogLoss"}}}},
            "lr_scheduler": {"class_path": "WarmupCosineLR"},
        },
    },
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, and what it printed; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["fit", "--config", str(folder / "small.yaml"), "--runs_dir", str(folder / "runs")]) == 0
    return only(folder / "runs" / "small", "*"), printed.getvalue()


@pytest.fixture
def fitted(finished):
    return finished[0]


def test_fit_leaves_a_complete_run_folder(fitted):
    assert (fitted / "config.yaml").is_file()
    assert (fitted / "checkpoints" / "last.ckpt").is_file()
    assert (fitted / "pictures" / "val.png").is_file()
    with (fitted / "metrics.csv").open() as file:
        assert "val/abs_rel" in (csv.DictReader(file).fieldnames or [])
    summary = json.loads((fitted / "summary.json").read_text())
    assert summary["metrics"]["val/abs_rel"] > 0
    assert Path(summary["best_checkpoint"]).is_file()
    assert summary["protocol"] == "per-image mean, depth 0.5-15 m"
    assert {"wall_s", "train_images_per_s", "versions", "seed"} <= summary.keys()


def test_fit_ends_with_a_table_the_best_checkpoint_and_the_next_command(finished):
    _, printed = finished
    assert "abs_rel" in printed
    assert "5-15m" in printed
    assert "best checkpoint" in printed
    assert "depth_distill predict --config" in printed


def test_the_resolved_config_and_checkpoint_give_the_same_number_again(fitted, tmp_path, capsys):
    summary = json.loads((fitted / "summary.json").read_text())
    capsys.readouterr()
    code = main(
        ["validate", "--config", str(fitted / "config.yaml"), "--ckpt_path", summary["best_checkpoint"]]
        + ["--run_dir", str(tmp_path / "again")]
    )
    assert code == 0
    assert f"{summary['metrics']['val/abs_rel']:.4f}" in capsys.readouterr().out


def test_predict_writes_a_depth_map_and_a_panel_an_image(fitted, tmp_path):
    best = json.loads((fitted / "summary.json").read_text())["best_checkpoint"]
    out = tmp_path / "predicted"
    assert main(["predict", "--config", str(fitted / "config.yaml"), "--ckpt_path", best, "--run_dir", str(out)]) == 0
    maps = sorted((out / "predictions" / "depth").rglob("*.png"))
    assert len(maps) == len(list((out / "predictions" / "panels").rglob("*.png"))) == 3
    with Image.open(maps[0]) as depth:
        assert depth.mode == "I;16"
        assert depth.size == (64, 32)
        low, high = depth.getextrema()
        assert 500 <= low <= high <= 15000  # millimetres, inside the depth range


def test_test_runs_on_the_test_split(fitted, tmp_path, capsys):
    best = json.loads((fitted / "summary.json").read_text())["best_checkpoint"]
    out = tmp_path / "tested"
    assert main(["test", "--config", str(fitted / "config.yaml"), "--ckpt_path", best, "--run_dir", str(out)]) == 0
    assert "test: per-image mean" in capsys.readouterr().out


def test_a_checkpoint_loads_without_the_command_line(fitted):
    best = json.loads((fitted / "summary.json").read_text())["best_checkpoint"]
    task = DepthTask.load_from_checkpoint(best, weights_only=True)
    assert task.network.predict_depth(torch.zeros(1, 3, 32, 64)).shape == (1, 1, 32, 64)


def test_resuming_continues_in_the_same_folder_and_keeps_the_log(fitted, tmp_path):
    run = shutil.copytree(fitted, tmp_path / "run")
    last = run / "checkpoints" / "last.ckpt"
    code = main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(last), "--trainer.max_epochs", "3"])
    assert code == 0
    assert json.loads((run / "summary.json").read_text())["epochs"] == 3
    assert (run / "metrics.1.csv").is_file()
    assert (run / "metrics.csv").is_file()


def test_the_same_seed_gives_the_same_numbers(config, fitted, tmp_path):
    main(["fit", "--config", str(config), "--run_dir", str(tmp_path / "again"), "--panels.every_n_epochs", "0"])
    one, two = (json.loads((run / "summary.json").read_text())["metrics"] for run in (fitted, tmp_path / "again"))
    assert one == two


def test_wandb_without_a_key_works_offline(config, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), "--wandb", "true"]
    assert main([*words, "--trainer.max_epochs", "1", "--panels.every_n_epochs", "0"]) == 0
    assert only(tmp_path / "run", "wandb/offline-run-*").is_dir()


def test_the_progress_bar_can_be_switched_off(config, tmp_path, capsys):
    words = ["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "1"]
    assert main([*words, "--trainer.enable_progress_bar", "false", "--panels.every_n_epochs", "0"]) == 0
    printed = capsys.readouterr().out
    assert "Epoch 0/0" not in printed
    assert "best checkpoint" in printed


def test_validate_data_reports_every_split(config, capsys):
    assert main(["validate-data", "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "train" in printed
    assert "val" in printed


def test_bad_data_is_one_line_and_exit_code_2(tmp_path, capsys):
    code = main(
        ["fit", "--config", str(CONFIGS / "teacher" / "resnet18.yaml"), "--data.root", str(tmp_path)]
        + ["--runs_dir", str(tmp_path / "runs")]
    )
    assert code == 2
    error = capsys.readouterr().err
    assert "train.csv" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["quickstart.yaml", "distill/quickstart.yaml"])
def test_shipped_configs_without_files_run(name, tmp_path):
    code = main(
        ["fit", "--config", str(CONFIGS / name), "--run_dir", str(tmp_path), "--trainer.fast_dev_run", "1"]
        + ["--data.num_workers", "0", "--data.calibration_size", "4"]
    )
    assert code == 0
