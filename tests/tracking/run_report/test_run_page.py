"""What is on the page of a run folder."""

import json
from pathlib import Path

import pytest
import yaml

from depth_distill.errors import ConfigError
from depth_distill.tracking.run_report.folder import read_run
from depth_distill.tracking.run_report.run_page import run_page
from tests.tracking.run_report.recorded import (
    config,
    fake_quant,
    write_checkpoints,
    write_layers,
    write_picture,
    write_run,
)


def page_of(folder):
    return run_page(read_run(folder))


def sections(page):
    return {each.title: each for each in page.sections}


def test_title_facts_and_the_order_of_the_sections(tmp_path):
    page = page_of(write_run(tmp_path / "2026-01-02_03-04-05", callbacks=[fake_quant()]))
    assert page.title == "DepthNet, resnet18 on SyntheticDepth"
    assert page.subtitle.endswith("2026-01-02_03-04-05, started 2026-01-02 03:04, depth-distill 0.2.0")
    facts = dict(page.facts)
    assert facts["fake quantization"] == "rknn, recipe equalize"
    assert facts["time"] == "1 min 15 s"
    assert facts["judged by"] == "val/abs_rel, lower is better"
    titles = ["Curves", "Metrics", "Panels", "Ranges and saturation of layers", "Config", "Next"]
    assert list(sections(page)) == titles


def test_metrics_at_the_best_and_at_the_last_epoch(tmp_path):
    page = page_of(write_run(tmp_path / "run", abs_rel=[0.4, 0.2, 0.3], vendor=[0.5, 0.25, 0.35]))
    table, by_band = sections(page)["Metrics"].tables
    assert table.header == [
        "metric", "val, best (epoch 2)", "val, last (epoch 3)", "vendor, best (epoch 2)", "vendor, last (epoch 3)"
    ]  # fmt: skip
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["loss", "abs_rel", "delta1"]
    assert rows["abs_rel"] == ["0.2000", "0.3000", "0.2500", "0.3500"]
    assert rows["loss"] == ["0.2000", "0.3000", "-", "-"]
    assert by_band.folded
    assert [row[0] for row in by_band.rows] == ["abs_rel_0.5-2m", "abs_rel_2-5m"]


def test_panels_are_those_of_the_best_checkpoint_and_of_some_epochs(tmp_path):
    folder = write_run(tmp_path / "run")
    write_picture(folder / "pictures" / "val.png", 200)
    for epoch in range(9):
        write_picture(folder / "pictures" / f"val-epoch{epoch:03}.png", epoch)
    panels = sections(page_of(folder))["Panels"]
    assert [each.title for each in panels.pictures] == [
        "pictures/val.png, of the best checkpoint", "pictures/val-epoch000.png", "pictures/val-epoch004.png",
        "pictures/val-epoch008.png",
    ]  # fmt: skip
    assert panels.pictures[0].png == (folder / "pictures" / "val.png").read_bytes()
    assert panels.lines == ["4 of 10 pictures are shown; the others are in the run folder."]


def test_a_picture_that_is_none_is_left_out_and_one_is_shown_once(tmp_path):
    folder = write_run(tmp_path / "run")
    write_picture(folder / "pictures" / "val.png", 7)
    write_picture(folder / "pictures" / "val-epoch002.png", 7)
    (folder / "pictures" / "val-epoch001.png").write_text("no picture")
    panels = sections(page_of(folder))["Panels"]
    assert [each.title for each in panels.pictures] == ["pictures/val.png, of the best checkpoint"]
    assert panels.lines == ["pictures/val-epoch001.png is no PNG file that can be shown, and left out."]


def test_what_is_missing_is_said(tmp_path):
    found = sections(page_of(write_run(tmp_path / "run")))
    assert found["Panels"].lines == ["This run folder has no pictures."]
    assert "layers.csv is missing" in found["Ranges and saturation of layers"].lines[0]
    assert found["Next"].lines == ["There is no checkpoint to go on from."]


def test_the_next_commands_have_the_paths_and_the_target_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "runs" / "small", callbacks=[fake_quant()])
    write_checkpoints(folder, "last.ckpt", "best.ckpt")
    commands = dict(sections(page_of(Path("runs/small")))["Next"].commands)
    assert commands["Train on, for as many epochs again"] == (
        "depth-distill fit --config runs/small/config.yaml --ckpt_path runs/small/checkpoints/last.ckpt "
        "--trainer.max_epochs 6"
    )
    assert commands["A bundle of ONNX files for an NPU"] == (
        "depth-distill export --checkpoint runs/small/checkpoints/best.ckpt --target rknn --recipe equalize "
        "--out bundle"
    )
    assert any(each.startswith("depth-distill error-budget ") for each in commands.values())
    assert any(each.startswith("depth-distill predict ") for each in commands.values())


def test_a_run_that_was_cut_short_goes_on_where_it_stopped(tmp_path):
    folder = write_run(tmp_path / "run", max_epochs=9)
    write_checkpoints(folder, "last.ckpt")
    what, command = sections(page_of(folder))["Next"].commands[0]
    assert what == "Go on where it stopped"
    assert "max_epochs" not in command


def test_an_evaluation_has_a_table_and_no_curves(tmp_path):
    run = write_run(tmp_path / "run")
    write_checkpoints(run, "best.ckpt")
    folder = tmp_path / "test" / "one"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(3)))
    record = {"split": "test", "checkpoint": str(run / "checkpoints" / "best.ckpt"), "protocol": "per-image mean"}
    record |= {"metrics": {"test/abs_rel": 0.1, "test/delta1": None}, "versions": {"depth-distill": "9.8.7"}}
    (folder / "evaluation.json").write_text(json.dumps(record))
    page = page_of(folder)
    assert page.subtitle.startswith("Test ")
    assert page.subtitle.endswith("depth-distill 9.8.7")
    assert [each.title for each in page.sections] == ["Metrics", "Panels", "Config", "Next"]
    (table,) = sections(page)["Metrics"].tables
    assert table.rows == [["abs_rel", "0.1000"], ["delta1", "-"]]
    assert str(run / "checkpoints" / "best.ckpt") in sections(page)["Next"].commands[0][1]


def test_predictions_have_their_panels(tmp_path):
    folder = tmp_path / "predict" / "one"
    write_picture(folder / "predictions" / "panels" / "set" / "a.png")
    (folder / "config.yaml").write_text(yaml.safe_dump(config(3)))
    page = page_of(folder)
    assert page.verdict == ["This folder has the predictions of a checkpoint, which were not scored."]
    assert "depth-distill" not in page.subtitle  # no version was recorded
    assert [each.title for each in sections(page)["Panels"].pictures] == ["predictions/panels/set/a.png"]


@pytest.mark.parametrize("name", ["summary.json", "evaluation.json", "diverged.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "\xff" * 3, "[" * 100_000])
def test_a_record_that_is_broken_is_left_out_and_named(tmp_path, name, content):
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(content, encoding="latin-1")
    page = page_of(folder)
    assert any(each.startswith(name) and "left out" in each for each in page.warnings)


@pytest.mark.parametrize("content", ["a: [", "- 1", "model: 3\ntrainer: [1]\ndata: {train: x}\ncheckpoint: 7"])
def test_a_config_of_any_shape_has_a_page(tmp_path, content):
    folder = write_run(tmp_path / "run")
    write_layers(folder)
    (folder / "config.yaml").write_text(content)
    page = page_of(folder)
    assert page.title == "run"
    assert page.verdict[0].startswith("Best val/abs_rel 0.2000")
    assert sections(page)["Config"].text == ("config.yaml", content)


def test_folders_that_are_no_runs_are_refused_by_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing is no folder; give a run folder, such as runs/NAME/latest"):
        read_run(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"is no run folder: config\.yaml is missing, and so are sweep\.json .*"):
        read_run(tmp_path)
    write_run(tmp_path / "runs" / "2026-01-02_03-04-05")
    with pytest.raises(ConfigError, match=r"did you mean .*runs/2026-01-02_03-04-05\?"):
        read_run(tmp_path / "runs")
