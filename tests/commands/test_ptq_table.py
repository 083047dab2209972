import json
from functools import partial

import pytest

from depth_distill.cli import main
from depth_distill.commands import ptq_steps, ptq_table
from depth_distill.quantization.passes import stress
from depth_distill.quantization.passes.adaround import adaround

STEPS = ["FP32", "naive PTQ", "+ equalize", "+ bias correction", "+ rounding reconstruction", "per-channel PTQ"]


def fake(numbers):
    rows = {"FP32": {"abs_rel": 0.05, "drift_mm": 0.0}}
    for step, vendor in zip(STEPS[1:], numbers, strict=True):
        rows[step] = {"abs_rel": vendor, "vendor": vendor, "drift_mm": 1.0, "parity": 0.995, "seconds": 2.0}
    return {"sigma": None, "protocol": "per-image mean", "rows": rows}


def test_a_row_is_given_relative_to_the_float_row():
    rows = fake([0.06, 0.05, 0.05, 0.05, 0.05])["rows"]
    cells = ptq_table._cells(rows["naive PTQ"], rows)
    assert cells == ["0.0600", "1.200", "0.0600", "1.200", "1.00", "99.50%", "2.0"]
    assert ptq_table._cells(rows["FP32"], rows)[:2] == ["0.0500", "1.000"]


def test_markdown_has_a_table_a_network_and_a_row_a_step():
    text = ptq_table._markdown({"net, plain": fake([0.06] * 5), "net, stressed": fake([0.2] * 5) | {"sigma": 0.8}})
    assert "### net, stressed (sigma 0.800)" in text
    assert text.count("| naive PTQ |") == 2
    assert "| naive PTQ | 0.2000 | 4.000 |" in text


def test_rows_are_measured_plain_and_stressed_and_none_twice(trained_checkpoint, tmp_path, monkeypatch):
    every = ptq_steps.Steps.measurements
    two = ("FP32", "+ rounding reconstruction")
    monkeypatch.setattr(ptq_steps.Steps, "measurements", lambda self: {step: every(self)[step] for step in two})
    monkeypatch.setattr(ptq_steps, "adaround", partial(adaround, iterations=2))
    monkeypatch.setattr(stress, "find_sigma", lambda *_: 0.5)  # one epoch teaches too little to lose it again
    words = ["--checkpoint", str(trained_checkpoint), "--out", str(tmp_path)]
    words += ["--calibration-images", "4", "--reconstruction-images", "4"]
    assert main(["ptq-table", *words]) == 0
    found = json.loads((tmp_path / "ptq_table.json").read_text())
    assert [title.rsplit(", ")[1] for title in found] == ["plain", "stressed"]
    plain, stressed = (network["rows"] for network in found.values())
    assert list(plain) == list(stressed) == list(two)
    # Stress leaves the float function as it is.
    assert stressed["FP32"]["abs_rel"] == pytest.approx(plain["FP32"]["abs_rel"], rel=1e-4)
    assert all(row["vendor"] > 0 and row["parity"] > 0.9 for row in (plain[two[1]], stressed[two[1]]))
    assert (tmp_path / "ptq_table.png").stat().st_size > 0
    monkeypatch.setattr(ptq_steps, "vendor_network", None)  # would be called if anything were measured again
    assert main(["ptq-table", *words]) == 0
    assert json.loads((tmp_path / "ptq_table.json").read_text()) == found
