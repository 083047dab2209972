"""Tables of a roadmap: mean and spread over seeds, ratios to FP32, and reasons in place of numbers."""

import csv

import pytest

from depth_distill.roadmap import COLUMNS, cells, float_abs_rel, write_results


def result(abs_rel, **more):
    return {
        "abs_rel": abs_rel, "rmse": 0.1, "delta1": 0.9, "drift_mm": 5.0, "megabytes": 14.0, "seconds": 60.0, **more
    }  # fmt: skip


FOUND = {
    "protocol": "per-image mean",
    "networks": {
        "plain": {
            "sigma": None,
            "rows": {
                "FP32": {"0": result(0.05, float=1.0)},
                "distilled": {"0": result(0.04), "1": result(0.06)},
                "other heads": {"0": {"why_not": "no such head"}},
            },
        },
        "stressed": {"sigma": 0.7, "rows": {"FP32": {"0": result(0.05, float=1.0)}, "PTQ": {"0": result(0.2)}}},
    },
}


def test_cells_by_hand():
    rows = FOUND["networks"]["plain"]["rows"]
    assert cells(rows["FP32"], 0.05) == ["0.0500", "0.100", "0.9000", "1.000", "5.0", "14.0", "60"]
    # Standard deviation of 0.04 and 0.06 is 0.0141; of 0.8 and 1.2 it is 0.283.
    assert cells(rows["distilled"], 0.05)[0] == "0.0500 ± 0.0141"
    assert cells(rows["distilled"], 0.05)[3] == "1.000 ± 0.283"
    assert cells(rows["other heads"], 0.05)[0] == "cannot run: no such head"


def test_the_float_row_is_what_ratios_are_taken_of():
    assert float_abs_rel(FOUND["networks"]["stressed"]) == pytest.approx(0.05)


def test_every_file_has_every_row(tmp_path):
    write_results(FOUND, tmp_path)
    text = (tmp_path / "roadmap.md").read_text()
    assert "### stressed (channel ranges spread by sigma 0.700)" in text
    assert "| PTQ | 0.2000 | 0.100 | 0.9000 | 4.000 |" in text
    with (tmp_path / "roadmap.csv").open() as file:
        records = list(csv.reader(file))
    assert records[0] == ["network", "row", *COLUMNS]
    assert [record[:2] for record in records[1:]] == [
        ["plain", "FP32"], ["plain", "distilled"], ["plain", "other heads"], ["stressed", "FP32"], ["stressed", "PTQ"]
    ]  # fmt: skip
    assert (tmp_path / "roadmap.png").stat().st_size > 0
