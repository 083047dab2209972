"""Searches and trials of sweeps, with a command that answers at once."""

import io
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

from depth_distill.cli import main
from depth_distill.errors import ConfigError
from depth_distill.sweep import report
from depth_distill.sweep.file import SweepFile
from depth_distill.sweep.search import DRAWN, choose_search
from depth_distill.sweep.trials import Trial, Trials

# abs_rel of (lr - 0.3)^2 in the place of a training; b = broken fails
PROGRAM = """
import json, pathlib, sys, time
words = dict(word[2:].split("=", 1) for word in sys.argv[1:])
time.sleep(float(words.get("sleep", 0)))
if words.get("b") == "broken":
    print("error: nothing learns from this")
    sys.exit(2)
if words.get("b") == "killed":
    import os
    os.kill(os.getpid(), 9)
path = pathlib.Path(words["json"])
path.write_text(json.dumps({"metrics": {"abs_rel": (float(words["lr"]) - 0.3) ** 2}}))
sys.exit(int(words.get("exit", 0)))
"""


@pytest.fixture
def at_once(monkeypatch):
    """Trials that run a small program; the list of all that were started."""
    started = []

    def start(self, trial):
        self.folder(trial).mkdir(parents=True, exist_ok=True)
        started.append((trial.number, time.monotonic()))
        with self.folder(trial).with_suffix(".log").open("ab") as log:
            command = [sys.executable, "-S", "-c", PROGRAM, *self.words(trial)]
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    monkeypatch.setattr(Trials, "_start", start)
    return started


def sweep(tmp_path, method="random", words=(), goal="minimize", **parameters):
    path = tmp_path / "sweep.yaml"
    content = {
        "method": method,
        "metric": {"name": "abs_rel", "goal": goal},
        "parameters": parameters or {"lr": {"min": 0.0, "max": 1.0}},
        "command": ["depth-distill", "evaluate", *words, "${args}"],
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return SweepFile.read(path)


def run(trials, engine="auto", count=4, parallel=2):
    search = choose_search(trials.sweep, engine)
    trials.run(search.suggest, count, parallel, lambda trial: None, DRAWN)


def test_a_grid_is_run_whole_and_ranked(tmp_path, at_once):
    lr = {"values": [0.1, 0.3, 0.9]}
    trials = Trials(sweep(tmp_path, "grid", lr=lr, b={"values": ["x", "y"]}), tmp_path / "out")
    run(trials, count=None)
    assert len(trials.all) == 6
    assert [each.parameters["lr"] for each in trials.finished] == [0.3, 0.3, 0.1, 0.1, 0.9, 0.9]
    assert trials.finished[0].value == 0.0


def test_an_interrupted_sweep_goes_on_with_the_trials_that_it_has(tmp_path, at_once):
    values = sweep(tmp_path)
    first = Trials(values, tmp_path / "out")
    run(first, count=2, parallel=1)
    record = json.loads((tmp_path / "out" / "sweep.json").read_text())
    record["trials"][1] |= {"state": "running", "value": None}  # as if it had been killed
    (tmp_path / "out" / "sweep.json").write_text(json.dumps(record))
    again = Trials(values, tmp_path / "out")
    run(again, count=3, parallel=1)
    assert [number for number, _ in at_once] == [1, 2, 2, 3]
    assert [each.parameters for each in again.all[:2]] == [each.parameters for each in first.all]
    assert len(again.finished) == 3
    with pytest.raises(ConfigError, match="holds the trials of a sweep with other parameters"):
        Trials(sweep(tmp_path, lr={"min": 0.0, "max": 2.0}), tmp_path / "out")


def test_as_many_trials_at_once_as_are_allowed(tmp_path, at_once):
    trials = Trials(sweep(tmp_path, words=["--sleep=0.6"]), tmp_path / "out")
    run(trials, count=4, parallel=2)
    times = [at for _, at in at_once]
    assert times[1] - times[0] < 0.5
    assert times[2] - times[0] > 0.5


def test_a_trial_that_fails_has_its_last_word_and_three_of_them_end_the_sweep(tmp_path, at_once):
    trials = Trials(sweep(tmp_path, "grid", lr={"values": [0.1, 0.2]}, b={"values": ["x", "broken"]}), tmp_path / "out")
    run(trials, count=None)
    failed = [each for each in trials.all if each.state == "failed"]
    assert [each.message for each in failed] == ["nothing learns from this"] * 2
    hopeless = Trials(sweep(tmp_path, lr={"min": 0.0, "max": 1.0}, b={"value": "broken"}), tmp_path / "hopeless")
    with pytest.raises(ConfigError, match="the first 3 trials failed, the last one with: nothing learns from this"):
        run(hopeless, count=10, parallel=1)


def test_a_sweep_without_a_value_ends_with_1(tmp_path, at_once, capsys):
    values = sweep(tmp_path, "grid", images={"values": [1, 2]})
    words = ["sweep", str(values.path), "--out", str(tmp_path / "out"), "--checkpoint", "x.ckpt"]
    assert main(words) == 1  # the program wants lr
    assert "no trial has a value" in capsys.readouterr().out


def test_a_trial_that_is_killed_twice_has_failed(tmp_path, at_once):
    values = sweep(tmp_path, "grid", lr={"values": [0.1]}, b={"values": ["killed"]})
    for state in ("running", "failed"):
        trials = Trials(values, tmp_path / "out")
        run(trials, count=None)
        assert trials.is_unfinished
        assert [each.state for each in trials.all] == [state]


def test_a_verdict_counts_as_a_result(tmp_path, at_once):
    trials = Trials(sweep(tmp_path, "grid", lr={"values": [0.3]}, words=["--exit=1"]), tmp_path / "out")
    run(trials, count=None)
    assert [each.state for each in trials.finished] == ["finished"]


@pytest.mark.parametrize("engine", ["optuna", "sweeps"])
def test_bayesian_search_beats_random_on_a_parabola(engine, tmp_path):
    if not find_spec(engine):
        pytest.skip(f"{engine} is not installed")
    values = sweep(tmp_path, "bayes", lr={"min": 0.0, "max": 1.0}, b={"values": ["x", "y"]})
    search, trials = choose_search(values, engine), []
    for number in range(1, 31):
        suggestion = search.suggest(trials)
        drawn = suggestion.pop(DRAWN, None)
        # what waits for a result is part of what the search knows
        trials.append(Trial(number, suggestion, "finished", (suggestion["lr"] - 0.3) ** 2, drawn=drawn))
        json.dumps(drawn)
    late = [abs(trial.parameters["lr"] - 0.3) for trial in trials[15:]]
    assert sum(late) / len(late) < 0.2  # 0.29 for values drawn evenly from [0, 1]


def test_a_suggestion_depends_on_the_trials_alone(tmp_path):
    values = sweep(tmp_path)
    one, two = (choose_search(values, seed=3).suggest([]) for _ in range(2))
    assert one == two
    assert choose_search(values, seed=3).suggest([Trial(1, one)]) != one
    assert choose_search(values, seed=4).suggest([]) != one


def test_without_a_package_a_bayesian_sweep_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("depth_distill.sweep.search.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"method bayes needs a package .*: pip install 'depth-distill\[sweep\]'"):
        choose_search(sweep(tmp_path, "bayes"))
    with pytest.raises(ConfigError, match="--search sweeps: the package is not installed: pip install sweeps"):
        choose_search(sweep(tmp_path, "bayes"), "sweeps")
    assert choose_search(sweep(tmp_path, "random")).suggest([])


def test_the_end_is_a_table_a_csv_file_and_a_picture(tmp_path, at_once):
    values = sweep(tmp_path, "grid", **{"lr": {"values": [0.1, 0.3]}, "b": {"values": ["x", "broken"]}})
    trials = Trials(values, tmp_path / "out")
    run(trials, count=None)
    console = Console(record=True, width=100, file=io.StringIO())
    report.write(values, trials, console, tmp_path / "result.json")
    printed = console.export_text()
    assert "abs_rel, the best first" in printed
    assert "2 failed: see sweep.csv and trials/*.log" in printed
    rows = [line.split(",") for line in (tmp_path / "out" / "sweep.csv").read_text().splitlines()]
    assert rows[0] == ["trial", "state", "abs_rel", "lr", "b", "seconds", "message"]
    assert [row[1] for row in rows[1:]] == ["finished", "finished", "failed", "failed"]
    assert rows[1][3] == "0.3"
    assert json.loads((tmp_path / "result.json").read_text())["best"]["parameters"] == {"lr": 0.3, "b": "x"}
    with Image.open(tmp_path / "out" / "sweep.png") as picture:
        assert picture.width > 500


def test_the_command_checks_and_says_why_a_sweep_is_hopeless(tmp_path, at_once, capsys):
    values = sweep(tmp_path, "grid", recipe={"values": ["naive", "equalize"]}, images={"values": [1, 2]})
    words = ["sweep", str(values.path), "--out", str(tmp_path / "out"), "--checkpoint", "x.ckpt"]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "depth-distill evaluate --checkpoint=x.ckpt --recipe=naive --images=1" in printed
    assert "early_terminate" not in printed
    assert main(words) == 2  # the program wants lr
    assert "trials failed" in capsys.readouterr().err
    assert (tmp_path / "out" / "trials" / "001.log").is_file()


def test_what_only_agents_honour_is_said_before_the_first_trial(tmp_path, at_once, monkeypatch, capsys):
    monkeypatch.setattr("depth_distill.commands.sweep.check_command", lambda *_: None)  # evaluate has no lr
    values = sweep(tmp_path, "grid", lr={"values": [0.1]})
    content = yaml.safe_load(values.path.read_text())
    values.path.write_text(yaml.safe_dump(content | {"early_terminate": {"type": "hyperband", "min_iter": 3}}))
    assert main(["sweep", str(values.path), "--out", str(tmp_path / "out"), "--checkpoint", "x.ckpt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("early_terminate of ")
    assert lines[0].endswith("is for agents of Weights & Biases: here every trial runs to its end")
    assert lines[1].startswith("trial 1")


@pytest.mark.slow
def test_the_shipped_sweeps_run_in_small(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    data = ["--data.train", "SyntheticDepth", "--data.train.length", "4", "--data.train.size", "[32, 64]"]
    data += ["--data.val", "SyntheticDepth", "--data.val.length", "2", "--data.val.size", "[32, 64]"]
    data += [
        "--data.image_size",
        "[32, 64]",
        "--data.batch_size",
        "2",
        "--data.num_workers",
        "0",
        "--data.augment",
        "[]",
    ]
    data += ["--data.augment", "[]", "--data.calibration_size", "2"]
    data += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    data += ["--model.init_args.network.init_args.decoder_channels", "[8, 8, 8, 8, 8]"]
    teacher = tmp_path / "teacher"
    assert main(["fit", "--config", "teacher/resnet18", "--run_dir", str(teacher), *data]) == 0
    given = ["--checkpoint", str(teacher / "checkpoints" / "best.ckpt")]
    out = tmp_path / "recipe"
    small = ["--count", "4", "--parallel", "2", "--search", "auto"]
    assert main(["sweep", "sweep/recipe", "--out", str(out), *given, *small]) == 0
    recipe = json.loads((out / "sweep.json").read_text())["trials"]
    assert [each["state"] for each in recipe] == ["finished"] * 4
    assert all({"drift_mm", "abs_rel"} <= each["metrics"].keys() for each in recipe)
    if not (find_spec("optuna") or find_spec("sweeps")):
        pytest.skip("neither optuna nor sweeps is installed, which the sweep of a distillation needs")
    out = tmp_path / "distill"
    assert main(["sweep", "sweep/distill", "--out", str(out), *given, *small, *data]) == 0
    distill = json.loads((out / "sweep.json").read_text())["trials"]
    assert [each["state"] for each in distill] == ["finished"] * 4
    assert len({str(each["parameters"]) for each in distill}) == 4
    assert (out / "sweep.png").stat().st_size > 5000
    rows = (out / "sweep.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows[1].split(",")[2] == str(min(each["value"] for each in distill))
    for each in distill:  # each parameter arrived in its run
        config = yaml.safe_load((out / "trials" / f"{each['number']:03d}" / "config.yaml").read_text())
        assert config["model"]["init_args"]["alpha"] == each["parameters"]["model.init_args.alpha"]
