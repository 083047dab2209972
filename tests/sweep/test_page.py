"""The page of a sweep's record."""

import json

import pytest

from depth_distill.errors import ConfigError
from depth_distill.sweep.page import sweep_page

MADE_WITH = {
    "parameters": {"model.init_args.lr": ["log_uniform_values", {}], "kind": ["values", {}]},
    "metric": "val/delta1",
    "command": ["fit", "--config=small.yaml"],
}


def trial(number, value, lr, kind="a", state="finished", **more):
    return {
        "number": number,
        "value": value,
        "parameters": {"model.init_args.lr": lr, "kind": kind},
        "state": state,
        **more,
    }


def write(folder, trials, **more):
    (folder / "sweep.json").write_text(json.dumps({"made_with": MADE_WITH, "trials": trials, **more}))
    return sweep_page(folder)


def test_trials_are_ranked_by_the_goal_of_the_sweep(tmp_path):
    trials = [trial(1, 0.3, 0.1), trial(2, 0.9, 0.001, "b"), trial(3, None, 0.5, state="failed", message="error: no")]
    page = write(tmp_path, trials, maximize=True)
    assert page.verdict == ["Best val/delta1 0.9 of trial 2: lr 0.001, kind b. The middle one of 2 trials has 0.3."]
    assert page.warnings == ["1 trial failed: see below."]
    over, table, command = page.sections
    assert [plot.title for plot in over.plots] == ["lr", "kind"]
    assert [plot.layout["xaxis"].get("type") for plot in over.plots] == ["log", "category"]
    assert over.plots[0].traces[0]["x"] == [0.001, 0.1]
    assert [row[:2] for row in table.tables[0].rows] == [["2", "0.9"], ["1", "0.3"], ["3", "error: no"]]
    assert command.commands[-1][1] == "depth-distill fit --config=small.yaml --model.init_args.lr=0.001 --kind=b"


def test_without_a_goal_a_delta_is_better_where_it_is_higher(tmp_path):
    assert "of trial 2" in write(tmp_path, [trial(1, 0.3, 0.1), trial(2, 0.9, 0.2)]).verdict[0]
    assert "of trial 1" in write(tmp_path, [trial(1, 0.3, 0.1), trial(2, 0.9, 0.2)], maximize=False).verdict[0]


def test_a_sweep_without_a_value_says_so(tmp_path):
    page = write(tmp_path, [trial(1, None, 0.1, state="running")])
    assert page.verdict == ["No trial has a value of val/delta1 yet."]
    assert page.warnings == ["1 trial is unfinished: the same command goes on."]


@pytest.mark.parametrize("content", ["[]", "{}", '{"made_with": {}, "trials": 3}', "{"])
def test_another_record_is_refused(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ConfigError, match=r"sweep\.json is not the record of a sweep"):
        sweep_page(tmp_path)
