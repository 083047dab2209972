"""Logs of runs that were resumed, killed, or not finite."""

import math

import pytest

from depth_distill.errors import ConfigError
from depth_distill.tracking.run_report.log import read_log
from tests.tracking.run_report.recorded import rows, write_log


def values(log, name):
    return [(each.step, each.value) for each in log[name]]


def test_points_have_step_epoch_and_value(tmp_path):
    write_log(tmp_path / "metrics.csv", rows([0.4, 0.3], steps=2))
    log = read_log(tmp_path)
    assert [(each.step, each.epoch, each.value) for each in log["val/abs_rel"]] == [(1, 0, 0.4), (3, 1, 0.3)]
    assert len(log["train/loss"]) == 4
    assert log["no such name"] == []
    assert log.last.step == 3
    assert log.notes == ()


def test_a_resumed_run_has_the_steps_that_it_did_again_once(tmp_path):
    # Interrupted at step 5 of epoch 2 and resumed from the checkpoint of step 4.
    write_log(tmp_path / "metrics.1.csv", [{"epoch": 0, "step": step, "train/loss": step} for step in range(6)])
    write_log(tmp_path / "metrics.csv", [{"epoch": 1, "step": step, "train/loss": 10 * step} for step in range(4, 7)])
    log = read_log(tmp_path)
    assert values(log, "train/loss") == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60)]
    assert log.notes == ("The run was resumed: its log is metrics.1.csv, metrics.csv.",)


def test_parts_are_in_the_order_of_their_numbers(tmp_path):
    for part in (1, 2, 10):
        write_log(tmp_path / f"metrics.{part}.csv", [{"epoch": 0, "step": part, "train/loss": part}])
    assert values(read_log(tmp_path), "train/loss") == [(1, 1), (2, 2), (10, 10)]


def test_a_line_that_was_being_written_is_left_out(tmp_path):
    write_log(tmp_path / "metrics.csv", [{"epoch": 0, "step": step, "train/loss": 0.125} for step in range(2)])
    text = (tmp_path / "metrics.csv").read_text().rstrip()
    (tmp_path / "metrics.csv").write_text(text[:-2])  # 0.1
    log = read_log(tmp_path)
    assert values(log, "train/loss") == [(0, 0.125)]
    assert log.notes == ("metrics.csv: 1 entry could not be read, and left out.",)


def test_what_is_no_number_is_left_out_and_counted(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,a\n0,0,x\n0,1,2.0\n0,2,y\n")
    log = read_log(tmp_path)
    assert values(log, "a") == [(1, 2.0)]
    assert log.notes == ("metrics.csv: 2 entries could not be read, and left out.",)


def test_the_first_that_is_not_finite_is_found(tmp_path):
    write_log(tmp_path / "metrics.csv", [{"epoch": 0, "step": step, "a": (1, "nan", "inf")[step]} for step in range(3)])
    log = read_log(tmp_path)
    found = log.non_finite(["a", "b"])
    assert list(found) == ["a"]
    assert found["a"].step == 1
    assert math.isnan(found["a"].value)


def test_no_log_is_an_empty_one(tmp_path):
    log = read_log(tmp_path)
    assert log.series == {}
    assert log.last is None


def test_a_log_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"metrics\.csv cannot be read as CSV .* move it away"):
        read_log(tmp_path)
