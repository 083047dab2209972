"""The error budget of a trained run, from the command line."""

import json

from PIL import Image

from depth_distill.cli import main

SOURCES = ["weights", "activations", "network input", "head pre-activation", "output codes"]


def test_it_writes_numbers_and_a_picture(trained_checkpoint, tmp_path, capsys):
    words = ["error-budget", "--checkpoint", str(trained_checkpoint), "--calibration-images", "4", "--images", "2"]
    assert main([*words, "--recipe", "naive", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "error_budget.json").read_text())
    assert found.keys() == {"title", "protocol", "float_metrics", "integer_metrics", "items", "metric", "verdict"}
    assert found["title"] == "small, per-tensor-minmax, recipe naive"
    assert found["protocol"] == "per-image mean, depth 0.5-15 m"
    names = [item["name"] for item in found["items"]]
    assert names[:5] == SOURCES
    assert {"stage encoder.stem", "stage encoder.blocks.0", "stage decoder.blocks.4", "stage head"} <= set(names)
    assert found["float_metrics"]["drift_mm"] == 0
    drifts = {item["name"]: item["alone"]["drift_mm"] for item in found["items"]}
    assert 0 < drifts["output codes"] < found["integer_metrics"]["drift_mm"]
    counts = {item["name"]: item["quantizers"] for item in found["items"]}
    assert counts["network input"] == counts["output codes"] == 1
    with Image.open(tmp_path / "out" / "error_budget.png") as picture:
        assert picture.format == "PNG"
    printed = capsys.readouterr().out
    assert "Error budget: small, per-tensor-minmax, recipe naive" in printed
    for name in names:
        assert name in printed  # not cut
    assert f"{found['integer_metrics']['abs_rel']:.4f}" in printed


def test_nothing_is_unexpected_without_arguments(capsys):
    assert main(["error-budget"]) == 2
    assert "--checkpoint" in capsys.readouterr().err
