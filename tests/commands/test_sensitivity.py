"""The sensitivity of a trained run, from the command line: exact, resumed, and fast."""

import json

import pytest
import torch
from PIL import Image

from depth_distill.cli import main
from depth_distill.evaluation import Evaluator


@pytest.fixture
def run(trained_checkpoint, tmp_path):
    def with_options(*words, images="2"):
        words = [
            "sensitivity",
            "--checkpoint",
            str(trained_checkpoint),
            "--calibration-images",
            "2",
            "--images",
            images,
            *words,
        ]
        return main([*words, "--out", str(tmp_path)])

    return with_options


def test_it_ranks_every_layer_by_what_it_costs(run, tmp_path, capsys):
    assert run() == 0
    found = json.loads((tmp_path / "sensitivity.json").read_text())
    assert found.keys() == {
        "title",
        "protocol",
        "float_metrics",
        "integer_metrics",
        "substituted_metrics",
        "layers",
        "metric",
        "verdict",
    }
    increases = [layer["degradation"] for layer in found["layers"]]
    assert increases == sorted(increases, reverse=True)
    metric = found["metric"]
    exact, integer = found["float_metrics"][metric], found["integer_metrics"][metric]
    for layer in found["layers"]:
        assert layer["degradation"] == pytest.approx(layer["alone"][metric] - exact)
        assert layer["recovery"] == pytest.approx(integer - layer["leave_one_out"][metric])
        assert "abs_rel_2-5m" in layer["alone"]
    with Image.open(tmp_path / "sensitivity.png") as picture:
        assert picture.format == "PNG"
    printed = capsys.readouterr().out
    assert "abs_rel_5-15m" in printed
    assert all(layer["name"] in printed for layer in found["layers"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sensitivity.json", "sensitivity.png"]


def test_interrupted_it_goes_on_where_it_stopped(run, tmp_path, monkeypatch):
    measure, measured = Evaluator.measure, []

    def stop_at_the_second_batch(self, position, codes):
        if position == 1:
            raise KeyboardInterrupt
        return measure(self, position, codes)

    def count(self, position, codes):
        measured.append(position)
        return measure(self, position, codes)

    monkeypatch.setattr(Evaluator, "measure", stop_at_the_second_batch)
    assert run(images="4") == 130
    (folder,) = (tmp_path / "unfinished").iterdir()
    assert [path.name for path in folder.iterdir()] == ["batch-00000.pt"]
    assert torch.load(folder / "batch-00000.pt", weights_only=True).shape[1] == 2  # images
    monkeypatch.setattr(Evaluator, "measure", count)
    assert run(images="4") == 0
    assert set(measured) == {1}
    assert not (tmp_path / "unfinished").exists()


def test_the_fast_ranking_says_how_well_it_agrees(run, tmp_path, capsys):
    assert run("--fast") == 0
    found = json.loads((tmp_path / "sensitivity_fast.json").read_text())
    assert found.keys() == {"title", "sqnr_db", "agreement", "top", "images"}
    values = list(found["sqnr_db"].values())
    assert values == sorted(values)
    assert -1 <= found["agreement"] <= 1
    assert found["images"] == 2
    assert (tmp_path / "sensitivity_fast.png").is_file()
    printed = " ".join(capsys.readouterr().out.split())
    assert f"rank correlation {found['agreement']:.2f}" in printed
    assert f"{found['top']} of the 5 most sensitive layers" in printed
