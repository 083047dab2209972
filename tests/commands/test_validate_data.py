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


@pytest.mark.parametrize(
    ("mode", "outcome"),
    [
        ("crop", "11 % of the width is cut off at the sides (data.resize: pad or stretch keeps it)"),
        ("pad", "bars fill 11 % of the height at top and bottom (data.resize: crop or stretch has none)"),
        ("stretch", "the width is squeezed by 11 % (data.resize: crop or pad keeps the aspect)"),
    ],
)
def test_another_aspect_ratio_is_said_once(words, capsys, mode, outcome):
    main([*words, "--data.resize", mode])
    out = capsys.readouterr().out
    assert f"train, val: images are 3:2 (6 x 4), the network takes 4:3 (128 x 96): {outcome}\n" in out
    assert out.count("the network takes") == 1


def test_an_unknown_resize_is_an_error_of_one_line(words, capsys):
    assert main([*words, "--data.resize", "squash"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert all(word in err for word in ("resize", "squash", "stretch"))


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
