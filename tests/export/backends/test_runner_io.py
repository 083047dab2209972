"""Shared by all runners: inputs one by one, outputs as float32, options, latency and notes in the report."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from depth_distill.export.backends.backends import RUNNERS


@pytest.fixture
def runner_io():
    """The module, found as a runner finds it: by its file, outside of the package."""
    spec = importlib.util.spec_from_file_location("runner_io", RUNNERS / "runner_io.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(runner_io, tmp_path, monkeypatch):
    """Runs the command line on three inputs; gives the outputs, the report and the inputs of each call."""

    def load(model, calibration, options, notes):
        notes.append(f"{model.name}, {calibration}, {options}")

        def double(image):
            calls.append(image)
            return {"twice": 2 * image, "sum": image.sum(axis=(2, 3))}

        return double

    calls = []
    np.save(tmp_path / "inputs.npy", np.arange(36, dtype=np.uint8).reshape(3, 1, 3, 4))

    def run(*words, **how):
        files = ["--inputs", tmp_path / "inputs.npy", "--outputs", tmp_path / "o.npz", "--report", tmp_path / "r.json"]
        monkeypatch.setattr(sys, "argv", ["run_chip.py", "--model", "a.onnx", *map(str, files), *words])
        runner_io.main("chip", "1.2", load, {"speed": "how fast", "save": "file"}, **how)
        with np.load(tmp_path / "o.npz") as outputs:
            return dict(outputs), json.loads((tmp_path / "r.json").read_text()), calls

    return run


def test_every_input_runs_once_and_then_for_the_latency(run):
    outputs, report, calls = run("--repeats", "5")
    inputs = np.arange(36).reshape(3, 1, 3, 4)
    assert [call.shape for call in calls] == [(1, 1, 3, 4)] * 8
    assert [call[0, 0, 0, 0] for call in calls] == [0, 12, 24, 0, 12, 24, 0, 12]
    assert all(each.dtype == np.float32 for each in outputs.values())
    np.testing.assert_array_equal(outputs["twice"], 2 * inputs)
    np.testing.assert_array_equal(outputs["sum"], inputs.sum(axis=(2, 3)))
    assert report["milliseconds"] > 0
    assert report["load_seconds"] > 0
    assert (report["tool"], report["version"], report["simulator"]) == ("chip", "1.2", False)
    assert report["notes"] == ["a.onnx, None, {}"]


def test_the_latency_of_a_simulator_means_nothing(run):
    _, report, calls = run("--repeats", "5", simulator=True)
    assert len(calls) == 3
    assert report["milliseconds"] is None
    assert report["simulator"]


def test_options_and_calibration_reach_the_tool_chain(run):
    _, report, _ = run("--option", "speed=2", "--option", "save=a=b", "--calibration", "images", "--repeats", "0")
    assert report["notes"] == ["a.onnx, images, {'speed': '2', 'save': 'a=b'}"]


def test_what_is_not_an_option_names_the_options(run, capsys):
    with pytest.raises(SystemExit):
        run("--option", "sped=2")
    assert "unknown option 'sped', expected one of ['save', 'speed']" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("--help", about="Runs on a chip.")
    assert "Runs on a chip." in (text := capsys.readouterr().out)
    assert "speed: how fast; save: file" in " ".join(text.split())


def test_calibration_tensors_are_those_of_the_list(runner_io, tmp_path):
    (tmp_path / "tensors.txt").write_text("tensors/0.npy\n\ntensors/7.npy\n")
    assert runner_io.calibration_files(tmp_path) == [tmp_path / "tensors/0.npy", tmp_path / "tensors/7.npy"]
