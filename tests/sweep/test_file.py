"""Sweep files: those that are shipped, and what is refused in others."""

import pytest
import yaml

from depth_distill.commands.sweep import check_command
from depth_distill.errors import ConfigError
from depth_distill.shipped_configs import find_config, shipped_names
from depth_distill.sweep.file import SweepFile
from depth_distill.sweep.search import schema_violations

GOOD = {
    "project": "depth-distill",
    "method": "random",
    "metric": {"name": "val/abs_rel", "goal": "minimize"},
    "parameters": {"model.init_args.optimizer.init_args.lr": {"min": 0.001, "max": 0.01}},
    "command": ["${env}", "python", "-m", "depth_distill", "fit", "--config=quickstart", "${args}"],
}


def write(tmp_path, **changes):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (GOOD | changes).items() if value is not None}))
    return path


@pytest.mark.parametrize("name", [f"sweep/{name}" for name in shipped_names("sweep")])
def test_shipped_sweeps_are_valid_and_their_command_takes_every_parameter(name):
    sweep = SweepFile.read(find_config(name))
    assert sweep.content["project"] == "depth-distill"
    assert schema_violations(sweep.content) == []
    check_command(sweep, ["--checkpoint=x.ckpt"] if sweep.subcommand == "evaluate" else ["--data.root=my_data"])


def test_a_command_is_taken_apart(tmp_path):
    sweep = SweepFile.read(write(tmp_path))
    assert (sweep.subcommand, list(sweep.words)) == ("fit", ["--config=quickstart"])
    assert sweep.arguments({"a.b": 0.5, "recipe": "[fold]", "list": [1, 2]}) == [
        "--a.b=0.5",
        "--recipe=[fold]",
        "--list=[1, 2]",
    ]
    short = write(tmp_path, command=["${env}", "depth-distill", "evaluate", "${args}"])
    assert SweepFile.read(short).subcommand == "evaluate"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metod": "grid"}, "there is no key 'metod'; did you mean 'method'"),
        ({"method": "bays"}, "method: did you mean 'bayes'"),
        ({"metric": None}, "metric is missing"),
        ({"metric": {"goal": "minimize"}}, "metric: received .*, expected name and goal"),
        ({"metric": {"name": "x", "goal": "min"}}, r"metric\.goal"),
        ({"method": "grid"}, "a grid needs values, not uniform"),
        ({"command": ["python", "train.py", "${args}"]}, "expected python -m depth_distill, or depth-distill"),
        ({"command": ["depth-distill", "fit"]}, r"\$\{args\} is missing"),
        ({"run_cap": 0}, "run_cap: received 0"),
    ],
)
def test_what_is_no_sweep_is_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        SweepFile.read(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"model.init_args.optimizer.init_args.lrr": {"values": [0.1]}},
            "AdamW has no option .lrr.",
        ),
        ({"trainer.max_epochs": {"values": [1, "many"]}}, r"trainer\.max_epochs"),
        ({"config": {"values": ["a.yaml"]}}, "--config is varied by"),
    ],
)
def test_a_parameter_that_the_command_does_not_take_is_found_before_the_first_trial(parameters, message, tmp_path):
    sweep = SweepFile.read(write(tmp_path, parameters=parameters))
    with pytest.raises(ConfigError, match=message):
        check_command(sweep)


def test_options_of_other_commands_are_checked_too(tmp_path):
    command = ["depth-distill", "evaluate", "--checkpoint=x.ckpt", "${args}"]
    for name, values, message in (
        ("recipe", ["equalise"], "there is no recipe 'equalise'"),
        ("calibraton-images", [3], "did you mean '--calibration-images'"),
    ):
        sweep = SweepFile.read(write(tmp_path, command=command, parameters={name: {"values": values}}))
        with pytest.raises(ConfigError, match=message):
            check_command(sweep)
