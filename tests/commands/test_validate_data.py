"""validate-data as a command: progress in a pipe, and what Ctrl-C leaves."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from depth_distill.cli import main
from depth_distill.display import progress
from tests.data.files import write_depth, write_image

CONFIG = Path(__file__).parents[2] / "configs" / "teacher" / "resnet18.yaml"


@pytest.fixture
def words(tmp_path):
    for number in range(5):
        write_image(tmp_path / "rgb" / f"{number}.jpg")
        write_depth(tmp_path / "depth" / f"{number}.png", 0 if number == 1 else 1500)
    for split, numbers in {"train": range(4), "val": [4]}.items():
        rows = [f"rgb/{number}.jpg,depth/{number}.png" for number in numbers]
        (tmp_path / f"{split}.csv").write_text("\n".join(["image,depth", *rows]))
    return ["validate-data", "--config", str(CONFIG), "--data.root", str(tmp_path), "--data.num_workers", "1"]


def test_progress_in_a_pipe(words, capsys):
    assert main(words) == 1
    out = capsys.readouterr().out
    assert out.startswith("train: 4 of 4\nval: 1 of 1\n")
    assert "no valid pixel" in out


def test_ctrl_c_prints_and_writes_what_was_found(words, tmp_path, capsys, monkeypatch):
    @contextmanager
    def interrupted(name, total, console):
        steps = iter(range(1, total + 1))

        def step():
            if next(steps) == 3:
                raise KeyboardInterrupt

        yield step

    monkeypatch.setattr(progress, "counting", interrupted)
    assert main([*words, "--json", str(tmp_path / "report.json")]) == 130
    out = "".join(capsys.readouterr().out.split())  # a long path is wrapped anywhere
    assert "1.jpg:thedepthmaphasnovalidpixel" in out
    assert "train:interruptedafter3of4samples" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report.keys(), report["train"]["samples"], report["train"]["total"]) == ({"train"}, 3, 4)
