"""Analyses and export with a network on another device than the CPU: nothing on the way makes a tensor elsewhere."""

import json
from functools import partial
from unittest.mock import patch

import pytest
import torch

from depth_distill.cli import main
from depth_distill.commands import ptq_rows
from depth_distill.quantization.passes.adaround import AdaRound
from tests.pretend_device import pretend_device

IMAGES = ("--calibration-images", "4", "--images", "4")
FULL = "[fold, equalize, {adaround: {iterations: 4, images: 4}}, {bias_correct: {images: 4}}]"
COMMANDS = {
    "error-budget": ("error_budget.json", ["error-budget", "--recipe", FULL]),
    "sensitivity": ("sensitivity.json", ["sensitivity"]),
    "mixed-precision": ("mixed_precision.json", ["mixed-precision"]),
    "ptq-table": ("ptq_table.json", ["ptq-table", "--reconstruction-images", "4"]),
    "uint8 input, percentile": (
        "manifest.json",
        ["export", "--backends", "onnxruntime", "--uint8-input", "--calibrator", "percentile", "--allow-violations"],
    ),
    "mse": ("manifest.json", ["export", "--backends", "--calibrator", "mse", "--high-precision-layers", "head.conv"]),
}

WRITES_FILES = ("ptq-table", "uint8 input, percentile", "mse")


def numbers(value, path=""):
    """The measured numbers of a result, by their path."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not any(word in key for word in ("second", "memory", "created", "latency")):
                yield from numbers(each, f"{path}/{key}")
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from numbers(each, f"{path}/{place}")
    elif isinstance(value, float):
        yield path, value


@pytest.fixture(autouse=True)
def _few_iterations(monkeypatch):
    monkeypatch.setattr(ptq_rows, "AdaRound", partial(AdaRound, iterations=4))


def run(name, checkpoint, out, device):
    file, words = COMMANDS[name]
    assert main([*words, "--checkpoint", str(checkpoint), *IMAGES, "--out", str(out), "--device", device]) == 0
    return dict(numbers(json.loads((out / file).read_text())))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in WRITES_FILES else []) for name in COMMANDS]
)
def test_nothing_is_on_the_cpu_by_accident(trained_checkpoint, tmp_path, name):
    with pretend_device() as device, patch("depth_distill.loading.trained.choose_device", lambda name: device):
        found = run(name, trained_checkpoint, tmp_path / "device", "cuda")
    expected = run(name, trained_checkpoint, tmp_path / "cpu", "cpu")
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", COMMANDS)
def test_a_gpu_gives_the_numbers_of_the_cpu(trained_checkpoint, tmp_path, name):
    found, expected = (run(name, trained_checkpoint, tmp_path / each, each) for each in ("cuda", "cpu"))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["error-budget", "sensitivity", "mixed-precision", "ptq-table", "mse"])
def test_a_gpu_that_is_not_there_is_one_line(trained_checkpoint, tmp_path, capsys, name):
    _, words = COMMANDS[name]
    assert (
        main([*words, "--checkpoint", str(trained_checkpoint), "--out", str(tmp_path / "o"), "--device", "cuda"]) == 2
    )
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert "received 'cuda', but there is no GPU that torch can use: give auto or cpu" in line
    assert not (tmp_path / "o").exists()


def test_a_device_that_nobody_knows_is_refused(trained_checkpoint, tmp_path, capsys):
    assert main(["error-budget", "--checkpoint", str(trained_checkpoint), "--out", "o", "--device", "gpu"]) == 2
    assert "--device must be auto, cpu, cuda or cuda:N, received 'gpu'" in capsys.readouterr().err
