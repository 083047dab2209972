"""``depth-distill report`` on runs that were trained."""

import json
from importlib.util import find_spec

import pytest

from depth_distill.cli import main
from depth_distill.sweep.page import sweep_page
from depth_distill.tracking.run_report import page as module

needs_plotly = pytest.mark.skipif(find_spec("plotly") is None, reason="the extra report is not installed")


@needs_plotly
def test_a_training_has_a_page_in_its_folder(trained_checkpoint, tmp_path, capsys):
    run = trained_checkpoint.parents[1]
    page = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Best val/abs_rel ")
    assert f"written  {page}" in printed
    text = page.read_text()
    assert "DepthNet, test_efficientnet" in text
    assert str(trained_checkpoint) in text  # of the command that trains on


@needs_plotly
def test_a_distillation_says_what_int8_costs(distilled_run, tmp_path, capsys):
    checkpoint, _ = distilled_run
    assert main(["report", str(checkpoint.parents[1]), "--out", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Best vendor/abs_rel ")
    assert "INT8 after the tool chain's own PTQ: abs_rel " in printed
    assert "clip" in (tmp_path / "page.html").read_text()


@needs_plotly
def test_the_page_lies_in_the_run_folder_unless_named(tmp_path, capsys):
    from tests.tracking.run_report.recorded import write_run

    run = write_run(tmp_path / "run", max_epochs=5)
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()
    assert "note     3 of 5 epochs are done" in capsys.readouterr().out


def test_refusals_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    assert main(["report", str(tmp_path)]) == 2
    assert "config.yaml is missing" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--data.root=x"]) == 2
    assert "leave out --data.root=x" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text("[]")
    assert main(["report", str(tmp_path)]) == 2
    assert "sweep.json is not the record of a sweep" in capsys.readouterr().err
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert main(["report", str(tmp_path)]) == 2
    assert "pip install 'depth-distill[report]'" in capsys.readouterr().err


@needs_plotly
def test_sweeps_and_roadmaps_have_pages(tmp_path, capsys):
    made_with = {
        "parameters": {"lr": ["log_uniform_values", {}]},
        "metric": "abs_rel",
        "command": ["fit", "--config=a"],
    }
    trials = [{"number": k, "parameters": {"lr": 10.0**-k}, "state": "finished", "value": k / 10} for k in (2, 1)]
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"made_with": made_with, "trials": trials}))
    assert main(["report", str(tmp_path / "sweep")]) == 0
    assert capsys.readouterr().out.startswith("Best abs_rel 0.1 of trial 1: lr 0.1.")
    assert sweep_page(tmp_path / "sweep").sections
    result = {"abs_rel": 0.05, "rmse": 0.1, "delta1": 0.9, "drift_mm": 5.0, "megabytes": 14.0, "seconds": 60.0}
    networks = {"": {"sigma": None, "rows": {"FP32": {"0": result | {"float": 1.0}}, "PTQ": {"0": result}}}}
    (tmp_path / "roadmap").mkdir()
    (tmp_path / "roadmap" / "roadmap.json").write_text(json.dumps({"protocol": "mean", "networks": networks}))
    assert main(["report", str(tmp_path / "roadmap")]) == 0
    assert capsys.readouterr().out.startswith("PTQ is the best row with abs_rel 0.0500, 1.000 times FP32.")
