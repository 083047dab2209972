"""What commands that train nothing log."""

import json
import time
from functools import partial

import pytest
import wandb
from rich.table import Table

from depth_distill.cli import main
from depth_distill.commands import ptq_rows
from depth_distill.errors import ConfigError
from depth_distill.quantization.passes.adaround import AdaRound
from depth_distill.tracking.analyses import _table, track
from tests.offline_wandb import read


@pytest.fixture
def logged(trained_checkpoint, tmp_path, monkeypatch):
    """Run an analysis of a small network with ``--wandb true``; its offline run, and the tables in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)

    def run(command, *words):
        out = tmp_path / "out"
        given = ["--checkpoint", str(trained_checkpoint), "--out", str(out), "--wandb", "true"]
        assert main([command, *given, "--images", "2", "--calibration-images", "2", *words]) == 0
        (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
        deadline = time.monotonic() + 30  # the process that writes it ends a moment after the command
        while not (found := read(file)).summary and time.monotonic() < deadline:
            time.sleep(0.1)
        return out, found, logged_tables

    logged_tables = []
    init = wandb.Table.__init__
    monkeypatch.setattr(
        wandb.Table, "__init__", lambda self, **given: logged_tables.append(given) or init(self, **given)
    )

    return run


def test_mixed_precision_logs_its_curve_and_what_it_chose(logged):
    out, found, tables = logged("mixed-precision", "--target-abs-rel", "0.9")
    result = json.loads((out / "mixed_precision.json").read_text())
    assert found.run.job_type == "mixed-precision"
    assert found.summary["chosen/abs_rel"] == pytest.approx(result["chosen"]["abs_rel"])
    assert found.summary["chosen/megabytes"] == pytest.approx(result["int8_mb"])
    assert found.summary["chosen/layers"] == 0
    assert found.summary["target/abs_rel"] == 0.9
    assert found.summary["float/abs_rel"] == pytest.approx(result["float_abs_rel"])
    (table,) = tables
    assert table["columns"] == ["layers in FP16", "MB", "abs_rel", "times FP32", "added last"]
    assert len(table["data"]) == len(result["curve"])
    kinds = {key: found.summary[f"{key}._type"] for key in ("mixed_precision", "mixed_precision_picture")}
    assert kinds == {"mixed_precision": "table-file", "mixed_precision_picture": "image-file"}
    assert found.config["recipe"] == "equalize"


def test_a_table_of_passes_logs_a_number_for_each_step(logged, monkeypatch):
    monkeypatch.setattr(ptq_rows, "AdaRound", partial(AdaRound, iterations=2))
    out, found, tables = logged("ptq-table", "--reconstruction-images", "2")
    (network,) = json.loads((out / "ptq_table.json").read_text()).values()
    assert found.run.job_type == "ptq-table"
    for step, row in network["rows"].items():
        assert found.summary[f"{step}/abs_rel"] == pytest.approx(row["abs_rel"])
    assert found.summary["naive PTQ/vendor"] == pytest.approx(network["rows"]["naive PTQ"]["vendor"])
    assert "FP32/vendor" not in found.summary
    (table,) = tables
    assert table["columns"][:3] == ["step", "abs_rel", "x FP32"]
    vendor = [row[3] for row in table["data"]]
    assert vendor[0] is None  # FP32 has none, and the others are numbers
    assert all(isinstance(each, float) for each in vendor[1:])


def test_an_empty_cell_does_not_make_its_column_text():
    table = Table("step", "vendor", "none")
    for row in (["FP32", "", "-"], ["naive", "0.25", ""]):
        table.add_row(*row)
    assert _table(table).data == [["FP32", None, "-"], ["naive", 0.25, ""]]


def test_what_weights_and_biases_refuses_is_one_line(tmp_path, monkeypatch):
    def refuse(**_):
        raise wandb.errors.CommError("denied\n(403)")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"Weights & Biases: denied \(403\); the results are written"):
        track("evaluate", tmp_path, None, {}, {"abs_rel": 0.1})
