"""Two processes on the command line give what one gives: metrics, maps in one run folder, and one record."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")


def depth_distill(*words):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DEPTH_DISTILL")}
    return subprocess.run(
        [sys.executable, "-m", "depth_distill", *words],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def of(command, checkpoint, runs, *more):
    config = str(checkpoint.parents[1] / "config.yaml")
    words = [command, "--config", config, "--ckpt_path", str(checkpoint), "--runs_dir", str(runs), *more]
    done = depth_distill(*words)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_metrics_are_those_of_one_process_and_printed_once(trained_checkpoint, tmp_path):
    # 5 images on 2 processes: the sampler repeats one.
    one, two = (of("test", trained_checkpoint, tmp_path, *more) for more in ((), TWO))
    numbers = [re.findall(r"\d+\.\d{3,}", printed.partition("test: per-image mean")[2]) for printed in (one, two)]
    assert numbers[0]
    assert numbers[0] == numbers[1]
    assert two.count("test: per-image mean") == 1


@pytest.mark.slow
def test_predictions_are_those_of_one_process_in_one_folder(trained_checkpoint, tmp_path):
    for name, more in (("one", ()), ("two", TWO)):
        of("predict", trained_checkpoint, tmp_path / name, *more)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("predictions/depth/**/*.png")}
        for name in ("one", "two")
    )
    assert len(one) == 5
    assert one == two
    assert len(list((tmp_path / "two").rglob("predictions"))) == 1


@pytest.mark.slow
def test_a_fit_has_one_folder_one_log_and_one_record(trained_checkpoint, tmp_path):
    config = str(trained_checkpoint.parents[1] / "config.yaml")
    done = depth_distill("fit", "--config", config, "--runs_dir", str(tmp_path), "--data.batch_size", "2", *TWO)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [len(list(tmp_path.rglob(name))) for name in ("summary.json", "metrics*.csv", "last.ckpt")] == [1, 1, 1]
    assert done.stdout.count("best checkpoint") == 1
