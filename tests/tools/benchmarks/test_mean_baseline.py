"""The mean baseline, on depths whose scores are computed by hand."""

import json
import math

import pytest

from tests.commands.configs import CONSTANT, write_config
from tests.data.files import write_depth, write_image
from tools.benchmarks.mean_baseline import main


def test_scores_of_the_mean(tmp_path, capsys):
    # Train is 1.0, 1.1, ... 1.4 m, so the guess is 1.2 m; val is 1.6 m everywhere.
    config = write_config(
        tmp_path / "small.yaml",
        train={"class_path": CONSTANT, "init_args": {"length": 5, "size": [32, 64]}},
        val={"class_path": CONSTANT, "init_args": {"length": 3, "size": [32, 64], "depth_m": 1.6}},
    )
    assert main(["--config", config, "--out", str(tmp_path / "out.json")]) == 0
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["depth_m"] == pytest.approx(1.2)
    assert out["protocol"] == "per-image mean, depth 0.5-15 m"
    expected = {
        "abs_rel": 0.4 / 1.6,
        "sq_rel": 0.4**2 / 1.6,
        "rmse": 0.4,
        "log10": math.log10(1.6 / 1.2),
        "delta1": 0.0,  # 1.6 / 1.2 = 1.33 is more than 1.25
        "delta2": 1.0,  # and less than 1.25 ** 2 = 1.56
        "abs_rel_0.5-2m": 0.25,
    }
    for name, value in expected.items():
        assert out["metrics"][name] == pytest.approx(value, rel=1e-5, abs=1e-9), name  # float32
    assert out["metrics"]["abs_rel_5-15m"] is None  # there is no such pixel
    printed = capsys.readouterr().out
    assert "1.200 m everywhere" in printed
    assert "0.2500" in printed


def test_pixels_without_depth_do_not_count_and_options_override_the_config(tmp_path):
    for name, millimetres in (("a", 1000), ("b", 3000), ("c", 2500)):
        write_image(tmp_path / f"{name}.png", size=(64, 32))
        write_depth(tmp_path / f"{name}-depth.png", millimetres, (64, 32))  # without depth in one pixel
    (tmp_path / "train.csv").write_text("image,depth\na.png,a-depth.png\nb.png,b-depth.png\n")
    (tmp_path / "val.csv").write_text("image,depth\nc.png,c-depth.png\n")
    splits = {
        split: {"class_path": "RgbdFolder", "init_args": {"root": "${data.root}", "manifest": f"{split}.csv"}}
        for split in ("train", "val")
    }
    config = write_config(tmp_path / "folder.yaml", root=None, batch_size=2, **splits)
    assert main(["--config", config, "--out", str(tmp_path / "out.json"), "--data.root", str(tmp_path)]) == 0
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["depth_m"] == pytest.approx(2.0)
    assert out["metrics"]["abs_rel"] == pytest.approx(0.2)
