import argparse
import json
from functools import partial

import pytest

from depth_distill.cli import main
from depth_distill.commands import ptq_report, ptq_rows, ptq_table
from depth_distill.errors import ConfigError
from depth_distill.loading.trained import load_run
from depth_distill.quantization.passes.adaround import AdaRound
from depth_distill.quantization.recipe import Recipe, load_recipe
from depth_distill.shipped_configs import shipped_folder

STEPS = ["FP32", "naive PTQ", "+ equalize", "+ bias correction", "+ rounding reconstruction", "per-channel PTQ"]


def fake(numbers):
    rows = {"FP32": {"abs_rel": 0.05, "drift_mm": 0.0}}
    for step, vendor in zip(STEPS[1:], numbers, strict=True):
        rows[step] = {"abs_rel": vendor, "vendor": vendor, "drift_mm": 1.0, "parity": 0.995, "seconds": 2.0}
    return {"protocol": "per-image mean", "rows": rows}


def test_a_row_is_given_relative_to_the_float_row():
    rows = fake([0.06, 0.05, 0.05, 0.05, 0.05])["rows"]
    cells = ptq_report.cells(rows["naive PTQ"], rows)
    assert cells == ["0.0600", "1.200", "0.0600", "1.200", "1.00", "99.50%", "2.0"]
    assert ptq_report.cells(rows["FP32"], rows)[:2] == ["0.0500", "1.000"]


def moved(drifts):
    found = fake([0.0501] * len(drifts))
    for step, drift in zip(STEPS[1:], drifts, strict=True):
        found["rows"][step]["drift_mm"] = drift
    return found


def test_the_verdict_says_what_int8_costs_and_what_is_nearest_to_fp32():
    rows = moved([12.0, 11.0, 10.5, 9.9, 3.0])["rows"]  # one scale per channel is for reference
    cost = "INT8 costs nothing in abs_rel (abs_rel 0.0501, FP32 0.0500, 12.0 mm from it)"
    assert ptq_report.verdict(rows) == f"{cost}; nearest to FP32 is + rounding reconstruction: 9.9 mm of 12.0"
    rows = moved([9.0, 11.0, 10.5, 9.9, 3.0])["rows"]
    assert ptq_report.verdict(rows).endswith("; no further pass brings it nearer to FP32")
    for step in STEPS[2:5]:
        del rows[step]
    assert ptq_report.verdict(rows).endswith(" mm from it)")  # none was tried


def test_a_network_that_was_interrupted_at_fp32_is_left_out():
    found = {"interrupted": {"rows": {"FP32": fake([0.1] * 5)["rows"]["FP32"]}}, "net": fake([0.06] * 5)}
    assert "### interrupted" in ptq_report.markdown(found)
    ticks = ptq_report.picture(found).axes[0].get_xticklabels()
    assert [each.get_text() for each in ticks] == ["net"]


@pytest.mark.parametrize(
    ("network", "label", "height"),
    [
        (moved([12.0, 11.0, 10.5, 9.9, 3.0]), "deviation from FP32 [mm], simulated", 12.0),
        (fake([0.06, 0.05, 0.05, 0.05, 0.05]), "abs_rel over FP32, ONNX Runtime's own PTQ", 1.2),
    ],
)
def test_bars_are_of_what_tells(network, label, height):
    ax = ptq_report.picture({"net": network}).axes[0]
    assert ax.get_ylabel() == label
    assert ax.patches[0].get_height() == pytest.approx(height)


def test_without_the_vendor_bars_are_simulated():
    network = fake([0.06, 0.05, 0.05, 0.05, 0.05])
    network["rows"]["naive PTQ"]["vendor"] = None
    ax = ptq_report.picture({"net": network}).axes[0]
    assert ax.get_ylabel() == "abs_rel over FP32, simulated"
    assert ax.patches[0].get_height() == pytest.approx(1.2)


@pytest.mark.parametrize("fitted", ["equalize", "clip_ranges", "split_weights", "bake_ranges"])
def test_rows_leave_out_what_may_not_stand_behind_the_base(fitted):
    rows = ptq_rows.row_recipes(Recipe.from_entries(["fold", fitted]), 4, has_relu6=True)
    first = "PTQ" if fitted == "equalize" else "naive PTQ"
    assert list(rows) == ["FP32", first, "+ bias correction", "+ rounding reconstruction", "per-channel PTQ"]
    assert [each.name for each in rows["+ bias correction"].passes] == ["fold", fitted, "bias_correct"]


def test_markdown_has_a_table_a_network_and_a_row_a_step():
    text = ptq_report.markdown({"net": fake([0.06] * 5), "net, stressed": fake([0.2] * 5)})
    assert "### net, stressed" in text
    assert text.count("| naive PTQ |") == 2
    assert "| naive PTQ | 0.2000 | 4.000 |" in text


def test_vendor_columns_are_empty_where_its_quantizer_cannot_stand_for_the_target(trained_checkpoint, tmp_path):
    profile, shipped = tmp_path / "signed.yaml", shipped_folder() / "target" / "per-tensor-minmax.yaml"
    profile.write_text(shipped.read_text().replace("dtype: uint8, symmetric: false", "dtype: int8, symmetric: true"))
    numbers = {}
    for target in ("per-tensor-minmax", str(profile), "symmetric-pow2"):
        options = argparse.Namespace(target=target, calibration_images=4, images=4, reconstruction_images=4)
        rows = ptq_rows.PtqRows(load_run(trained_checkpoint), load_recipe("naive"), options, tmp_path)
        numbers[target] = rows.measure("naive PTQ")
    assert numbers["symmetric-pow2"]["vendor"] is None
    signed = numbers[str(profile)]
    assert signed["vendor"] != numbers["per-tensor-minmax"]["vendor"]
    assert signed["vendor"] == pytest.approx(signed["abs_rel"], rel=0.02)


def test_rows_are_measured_and_none_twice_with_the_same_settings(trained_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(ptq_rows, "AdaRound", partial(AdaRound, iterations=2))
    words = ["--checkpoint", str(trained_checkpoint), "--out", str(tmp_path), "--images", "4"]
    words += ["--calibration-images", "4", "--reconstruction-images", "4"]
    assert main(["ptq-table", *words]) == 0
    stressed = ["--recipe", "[fold, {stress: {sigma: 0.5}}]"]
    assert main(["ptq-table", *words, *stressed]) == 0
    found = json.loads((tmp_path / "ptq_table.json").read_text())
    assert list(found) == ["small", "small, [fold, stress(sigma=0.5)]"]
    plain, perturbed = (network["rows"] for network in found.values())
    assert list(plain) == list(perturbed) == STEPS
    # Stress leaves the float function as it is.
    assert perturbed["FP32"]["abs_rel"] == pytest.approx(plain["FP32"]["abs_rel"], rel=1e-4)
    assert all(row["vendor"] > 0 and row["parity"] > 0.9 for row in plain.values() if "vendor" in row)
    assert (tmp_path / "ptq_table.png").stat().st_size > 0

    measured = []
    monkeypatch.setattr(ptq_rows.PtqRows, "measure", lambda self, row: measured.append(row) or plain[row])
    assert main(["ptq-table", *words]) == 0
    assert not measured
    assert json.loads((tmp_path / "ptq_table.json").read_text()) == found
    assert main(["ptq-table", *words, "--target", "symmetric-pow2"]) == 0  # rows of another target are no use
    assert measured == STEPS
    measured.clear()
    profile = tmp_path / "mine.yaml"
    profile.write_text((shipped_folder() / "target" / "per-tensor-minmax.yaml").read_text())
    assert main(["ptq-table", *words, "--target", str(profile)]) == 0
    measured.clear()
    profile.write_text(profile.read_text().replace("calibrator: minmax", "calibrator: mse"))
    assert main(["ptq-table", *words, "--target", str(profile)]) == 0  # of the same name, but edited
    assert measured == STEPS


def test_checkpoints_of_one_run_do_not_share_rows(tmp_path, capsys):
    names = [
        tmp_path / f"{folder}/run/checkpoints/{name}.ckpt" for folder, name in (("a", "x"), ("a", "y"), ("b", "x"))
    ]
    for each in names:
        each.parent.mkdir(parents=True, exist_ok=True)
        each.touch()
    assert list(ptq_table._names(names[:1])) == ["run"]
    assert list(ptq_table._names(names[:2])) == ["run, x", "run, y"]
    with pytest.raises(ConfigError, match="would share the rows of 'run, x': measure one"):
        ptq_table._names(names)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": 3}', '{"a": {"rows": {"naive PTQ": {"abs_rel": 1}}}}', "[" * 9999]
)
def test_a_damaged_table_is_refused_by_name(text, tmp_path):
    (tmp_path / "ptq_table.json").write_text(text)
    with pytest.raises(ConfigError, match=r"ptq_table\.json is no table of ptq-table: move it away"):
        ptq_table._measured(tmp_path / "ptq_table.json")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("equalize", ["FP32", "PTQ", "+ bias correction", "+ rounding reconstruction", "per-channel PTQ"]),
        ("[fold, equalize, {bias_correct: {images: 4}}]", ["FP32", "PTQ", "per-channel PTQ"]),
    ],
)
def test_what_the_base_has_is_not_done_twice(recipe, expected, trained_checkpoint, tmp_path, monkeypatch):
    fixed = {"abs_rel": 0.1, "vendor": 0.1, "drift_mm": 1.0, "parity": 1.0, "seconds": 1.0}
    monkeypatch.setattr(ptq_rows.PtqRows, "measure", lambda self, row: fixed)
    words = ["--checkpoint", str(trained_checkpoint), "--out", str(tmp_path), "--images", "4"]
    assert main(["ptq-table", *words, "--calibration-images", "4", "--recipe", recipe]) == 0
    (network,) = json.loads((tmp_path / "ptq_table.json").read_text()).values()
    assert list(network["rows"]) == expected


@pytest.mark.parametrize("entry", ["uint8_input", "{thermometer: {num_codes: 16}}", "pair"])
def test_rows_are_scored_through_the_interface_of_their_network(entry, trained_checkpoint, tmp_path, monkeypatch):
    kept = ("FP32", "naive PTQ")
    measure = ptq_rows.PtqRows.measure
    skipped = {"abs_rel": 0.1, "vendor": 0.1, "drift_mm": 1.0, "parity": 1.0, "seconds": 1.0}
    monkeypatch.setattr(ptq_rows.PtqRows, "measure", lambda self, row: measure(self, row) if row in kept else skipped)
    words = ["--checkpoint", str(trained_checkpoint), "--out", str(tmp_path), "--images", "4"]
    for recipe in ("naive", f"[fold, {entry}]"):
        assert main(["ptq-table", *words, "--calibration-images", "4", "--recipe", recipe]) == 0
    plain, other = (each["rows"] for each in json.loads((tmp_path / "ptq_table.json").read_text()).values())
    assert other["FP32"]["abs_rel"] == pytest.approx(plain["FP32"]["abs_rel"], rel=1e-3)
    assert other["naive PTQ"]["vendor"] == pytest.approx(plain["naive PTQ"]["vendor"], rel=0.05)


def test_a_target_that_no_int8_file_holds_is_refused_before_anything_is_measured(trained_checkpoint, tmp_path, capsys):
    words = ["--checkpoint", str(trained_checkpoint), "--out", str(tmp_path), "--target", "weights-int4"]
    assert main(["ptq-table", *words]) == 2
    assert "target weights-int4: weights.dtype is int4" in capsys.readouterr().err
    assert not (tmp_path / "ptq_table.json").exists()
