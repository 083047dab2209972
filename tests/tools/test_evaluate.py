"""tools/evaluate.py: one metric, whatever made the depth."""

import json

import numpy as np
import pytest
import torch

from depth_distill.export.float_onnx import export_float
from depth_distill.pictures import save_depth_png
from depth_distill.quantization.fold import fold
from depth_distill.quantization.graph import trace
from depth_distill.trained import load_trained
from tools.evaluate import main
from tools.export_npu import main as export


@pytest.fixture
def run(trained_checkpoint):
    return load_trained(trained_checkpoint)


def score(checkpoint, tmp_path, *words):
    assert main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "m.json"), *map(str, words)]) == 0
    return json.loads((tmp_path / "m.json").read_text())["metrics"]


def test_a_checkpoint_and_its_files_score_alike(run, trained_checkpoint, tmp_path):
    expected = run.evaluator()(run.network)
    found = score(trained_checkpoint, tmp_path)
    assert found["abs_rel"] == pytest.approx(expected["abs_rel"], rel=1e-6)
    path = export_float(fold(trace(run.network)), torch.zeros(1, 3, 32, 64), tmp_path / "alone.onnx")
    assert score(trained_checkpoint, tmp_path, "--onnx", path)["abs_rel"] == pytest.approx(
        expected["abs_rel"], rel=1e-4
    )
    words = ["--checkpoint", str(trained_checkpoint), "--out", str(tmp_path / "b"), "--calibration-images", "4"]
    assert export([*words, "--backends", "--uint8-input", "--logits"]) == 0
    for kind, tolerance in (("float", 1e-3), ("single", 1e-3), ("int8", 0.2)):
        found = score(trained_checkpoint, tmp_path, "--onnx", tmp_path / "b" / f"model.{kind}.onnx")
        assert found["abs_rel"] == pytest.approx(expected["abs_rel"], rel=tolerance)


def test_a_folder_of_predictions(run, trained_checkpoint, tmp_path, capsys):
    expected = run.evaluator()(run.network)
    folder = tmp_path / "depth"
    for batch in run.data.val_dataloader():
        with torch.no_grad():
            depth_m = run.network.predict_depth(batch.image)
        for each, index in zip(depth_m, batch.sample_index.tolist(), strict=True):
            save_depth_png(each, folder / f"{run.data.val.name(index)}.png")
    found = score(trained_checkpoint, tmp_path, "--predictions", folder)
    # Half a millimetre at half a metre.
    assert found["abs_rel"] == pytest.approx(expected["abs_rel"], abs=1e-3)
    first = folder / f"{run.data.val.name(0)}.png"
    np.save(first.with_suffix(".npy"), np.ones((4, 4), np.float32))
    assert main(["--checkpoint", str(trained_checkpoint), "--predictions", str(folder)]) == 2
    assert "expected (32, 64)" in " ".join(capsys.readouterr().err.split())
    first.with_suffix(".npy").unlink()
    first.unlink()
    assert main(["--checkpoint", str(trained_checkpoint), "--predictions", str(folder)]) == 2
    assert "expected one an image" in " ".join(capsys.readouterr().err.split())
