"""Verdicts about curves whose end is known."""

import json

import pytest
import yaml

from depth_distill.tracking.run_report.folder import read_run
from depth_distill.tracking.run_report.judge import monitored, verdict, warnings
from tests.tracking.run_report.recorded import config, fake_quant, rows, write_log, write_run


def said(folder, **options):
    return " ".join(verdict(read_run(write_run(folder, **options))))


def test_best_and_last_with_their_epochs(tmp_path):
    text = said(tmp_path / "run", abs_rel=[0.4, 0.2, 0.25])
    assert text.startswith("Best val/abs_rel 0.2000 at epoch 2 of 3; at the last, epoch 3, 0.2500.")
    assert "With 3 validations there is no saying whether it had levelled off" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.8, 0.6, 0.5, 0.4, 0.35, 0.3, 0.27, 0.2], "still improving: the last 2 of 8 validations gained 33.3%"),
        (
            [0.8, 0.3, 0.21, 0.2, 0.2, 0.201, 0.2, 0.2],
            "had levelled off: the last 2 of 8 validations gained less than 1%",
        ),
        ([0.8, 0.3, 0.2, 0.2, 0.22, 0.24, 0.26, 0.3], "got worse after that: the last value is 50.0% behind the best"),
        ([0.8], "With one validation there is no saying"),
    ],
    ids=["improving", "levelled off", "worse", "one"],
)
def test_the_trend(tmp_path, values, expected):
    assert expected in said(tmp_path / "run", abs_rel=values)


def test_more_is_better_where_the_config_says_so(tmp_path):
    folder = write_run(tmp_path / "run", abs_rel=[0.4, 0.2, 0.3])
    content = config(3, "val/delta1")
    content["checkpoint"]["mode"] = "max"
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    assert verdict(read_run(folder))[0].startswith("Best val/delta1 0.8000 at epoch 2 of 3")


def test_a_metric_that_was_never_logged_is_replaced_and_said(tmp_path):
    run = read_run(write_run(tmp_path / "run", monitor="vendor/abs_rel"))
    assert monitored(run).name == "val/abs_rel"
    assert "vendor/abs_rel, which the config monitors, was never logged; judged by val/abs_rel." in warnings(run)


def test_int8_against_what_is_simulated_in_training(tmp_path):
    text = said(tmp_path / "run", vendor=[0.5, 0.33, 0.22], callbacks=[fake_quant()])
    assert (
        "INT8 after the tool chain's own PTQ: abs_rel 0.2200, 10.0% worse than simulated in training (0.2000)." in text
    )


def test_int8_against_float_epochs(tmp_path):
    text = said(tmp_path / "run", vendor=[0.4, 0.3, 0.2], callbacks=[fake_quant(start_epoch=9)])
    assert "abs_rel 0.2000, the same as in float (0.2000)" in text


@pytest.mark.parametrize("same_data", [True, False])
def test_int8_against_the_float_teacher_where_both_saw_the_same_data(tmp_path, same_data):
    teacher = write_run(tmp_path / "teacher", abs_rel=[0.2])
    folder = write_run(tmp_path / "run", vendor=[0.5, 0.33, 0.22], callbacks=[fake_quant()])
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["model"]["init_args"]["teacher_checkpoint"] = str(teacher / "checkpoints" / "epoch000.ckpt")
    if not same_data:
        content["data"]["val"]["init_args"]["length"] = 5
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    text = " ".join(verdict(read_run(folder)))
    if same_data:
        assert text.endswith("and 10.0% worse than the float teacher (0.2000).")
    else:
        assert text.endswith("its float teacher was validated on other data, and is not compared.")


def test_a_run_that_was_cut_short_says_so(tmp_path):
    run = read_run(write_run(tmp_path / "run", max_epochs=8))
    (note,) = warnings(run)
    assert note.startswith("3 of 8 epochs are done: the run was cut short")


def test_a_finished_run_has_no_warnings(tmp_path):
    assert warnings(read_run(write_run(tmp_path / "run"))) == []


def test_a_run_without_an_epoch_says_so(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config(3)))
    run = read_run(folder)
    assert verdict(run) == ["This run has no validation in its log, so there is nothing to judge it by."]
    assert warnings(run) == [
        "summary.json is missing, and nothing was logged: the run was cut short, or is still going on."
    ]


def test_numbers_that_are_not_finite_are_named_but_not_empty_bands(tmp_path):
    folder = write_run(tmp_path / "run")
    found = rows([0.4, 0.3, 0.2])
    found[-2]["train/loss"] = "nan"
    found[-1]["val/abs_rel_2-5m"] = "nan"
    write_log(folder / "metrics.csv", found)
    assert warnings(read_run(folder)) == ["train/loss is nan from step 11, epoch 3, on."]


def test_a_run_that_diverged_says_where(tmp_path):
    folder = write_run(tmp_path / "run", max_epochs=8)
    (folder / "diverged.json").write_text(json.dumps({"message": "epoch 2, step 9: train/loss is nan"}))
    assert warnings(read_run(folder)) == ["The run diverged: epoch 2, step 9: train/loss is nan."]


def test_an_evaluation(tmp_path):
    folder = tmp_path / "test" / "2026-01-02_03-04-05"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(3)))
    metrics = {"test/abs_rel": 0.1, "test/rmse": 0.5, "vendor/abs_rel": 0.11}
    (folder / "evaluation.json").write_text(json.dumps({"split": "test", "metrics": metrics}))
    run = read_run(folder)
    assert run.job == "test"
    assert run.started == "2026-01-02 03:04"
    assert " ".join(verdict(run)) == (
        "On the test split: test/abs_rel 0.1000, test/rmse 0.5000. "
        "INT8 after the tool chain's own PTQ: abs_rel 0.1100, 10.0% worse than that."
    )
