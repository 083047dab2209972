"""The command: a folder of a device's outputs, or a tool chain, or neither; what it writes, prints and returns."""

import json
import re

import numpy as np
import pytest

from depth_distill.cli import main
from tests.export.device.faulty_chain import PIXELS, Device, save, write_photos

MEANING = ["--depth-range", "0.5", "15", "--encoding", "log"]
PIXEL_WORDS = ["--mean", *map(str, PIXELS.mean), "--std", *map(str, PIXELS.std)]


@pytest.fixture
def diagnosed(tmp_path):
    write_photos(tmp_path / "photos")
    save(tmp_path / "float.onnx")

    def run(*words):
        words = ["--images", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), *MEANING, *PIXEL_WORDS, *words]
        return main(["diagnose", str(tmp_path / "float.onnx"), *words])

    return run


def test_a_hard_sigmoid_is_named_with_its_cure(diagnosed, tmp_path, capsys):
    Device(tmp_path, save(tmp_path / "chain.onnx", last="HardSigmoid"))()
    assert diagnosed("--device-outputs", str(tmp_path / "npu")) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("the last Sigmoid is computed as HardSigmoid")
    before, after = (float(each) for each in re.search(r"takes ([\d.]+) mm .* to ([\d.]+) mm", last).groups())
    assert after < 0.7 * before  # where it is flat, nothing can be undone
    assert "--logits" in last
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert found["finding"] == "sigmoid_by_hard_sigmoid"
    assert found["verdict"] == last
    assert sum(part["share"] for part in found["parts"].values()) == pytest.approx(1)
    assert sum(found["parts"][name]["share"] for name in ("systematic", "clipping")) > 0.8
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "HardSigmoid" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "diagnosis.json", "diagnosis.png", "images.png", "report.html",
    ]  # fmt: skip


def test_a_sound_tool_chain_is_called_sound(diagnosed, tmp_path, capsys):
    assert diagnosed("--backend", "onnxruntime", "--calibration-images", "2") == 0
    printed = capsys.readouterr().out
    assert "its own PTQ on 2 other images" in printed
    assert printed.splitlines()[-1].startswith("nothing is wrong: ")


def test_without_a_device_the_table_says_what_would_happen(diagnosed, tmp_path, capsys):
    assert diagnosed() == 0
    printed = capsys.readouterr().out
    assert "hard_sigmoid" in printed
    rows = json.loads((tmp_path / "out" / "diagnosis.json").read_text())["rows"]
    assert {"Sigmoid", "Elu"} <= {row["operator"] for row in rows}
    assert rows[0]["relative"] == max(row["relative"] for row in rows)
    assert "Substitutions" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_wrong_with_the_files_is_said(diagnosed, tmp_path, capsys):
    Device(tmp_path, tmp_path / "float.onnx")()
    (tmp_path / "npu" / "03.npy").unlink()
    assert diagnosed("--device-outputs", str(tmp_path / "npu")) == 2
    assert "has nothing for the image 03: expected one file, 03.npy" in capsys.readouterr().err
    np.save(tmp_path / "npu" / "03.npy", np.zeros(7))
    assert diagnosed("--device-outputs", str(tmp_path / "npu")) == 2
    assert "03.npy has the shape (7,), expected" in capsys.readouterr().err
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "mine.txt").write_text("of somebody")
    assert diagnosed("--device-outputs", str(tmp_path / "npu")) == 2
    assert "has files that are not of diagnose" in capsys.readouterr().err
