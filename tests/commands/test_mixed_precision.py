"""Mixed precision of a trained run, from the command line."""

import json

import pytest
from PIL import Image

from depth_distill.cli import main
from depth_distill.quantization.target.target import load_target


@pytest.fixture
def run(trained_checkpoint, tmp_path):
    def with_options(*words):
        words = [
            "mixed-precision",
            "--checkpoint",
            str(trained_checkpoint),
            "--calibration-images",
            "2",
            "--images",
            "2",
            *words,
        ]
        return main([*words, "--out", str(tmp_path / "out")])

    return with_options


def test_a_target_that_pure_int8_reaches(run, tmp_path, capsys):
    assert run("--target-abs-rel", "0.9", "--threshold", "-1") == 0
    found = json.loads((tmp_path / "out" / "mixed_precision.json").read_text())
    assert found.keys() == {
        "title", "protocol", "threshold", "by_threshold", "high_precision", "target_abs_rel", "chosen", "reached",
        "curve",
        "float_abs_rel", "int8_mb", "high_precision_mb", "statement",
    }  # fmt: skip
    assert found["reached"]
    assert found["chosen"]["layers"] == []
    assert found["chosen"]["megabytes"] == found["int8_mb"] < found["high_precision_mb"]
    # Every layer is above a threshold of -1: all in FP16, the network is as large as FP16 makes it, and as good.
    assert found["by_threshold"]["megabytes"] == found["high_precision_mb"]
    assert found["by_threshold"]["abs_rel"] == pytest.approx(found["float_abs_rel"], rel=1e-3)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"pure INT8 already suffices for abs_rel 0.9: abs_rel {found['chosen']['abs_rel']:.4f}" in printed
    assert f"layers that cost more than -1 alone: {len(found['by_threshold']['layers'])}" in printed
    with Image.open(tmp_path / "out" / "mixed_precision.png") as picture:
        assert picture.format == "PNG"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mixed_precision.json", "mixed_precision.png"]


def test_what_the_target_cannot_do_is_refused_before_any_work(run, tmp_path, capsys):
    assert run("--target", "symmetric-pow2") == 2
    error = capsys.readouterr().err
    assert "symmetric-pow2.yaml" in error
    assert "capabilities.fp16: no" in error
    text = load_target("per-tensor-minmax").source.read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("int16: unconfirmed", 'int16: "no"'))
    assert run("--target", str(tmp_path / "mine.yaml"), "--high-precision", "int16") == 2
    line = text.splitlines().index("  int16: unconfirmed") + 1
    assert f"mine.yaml:{line}: capabilities.int16: no" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_target_accuracy_that_makes_no_sense(run, capsys):
    assert run("--target-abs-rel", "0") == 2
    assert "target-abs-rel must be positive, received 0.0" in capsys.readouterr().err
