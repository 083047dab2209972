"""A sweep as Weights & Biases reads it: a YAML file with a method, a metric, parameters and a command."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depth_distill.errors import ConfigError
from depth_distill.suggestions import did_you_mean
from depth_distill.sweep.parameters import Parameter
from depth_distill.yaml_files import read_yaml

METHODS = ("grid", "random", "bayes")
_KEYS = (
    *("method", "metric", "parameters", "command", "program", "project", "entity", "name", "description"),
    *("early_terminate", "run_cap"),
)
_MACROS = ("${env}", "${interpreter}", "${program}")
_ARGUMENTS = ("${args}", "${args_no_boolean_flags}")
_PYTHON = ("python", "python3", "${interpreter}")


@dataclass(frozen=True)
class SweepFile:
    """A sweep that has been checked.

    Attributes:
        path: the file.
        method: ``grid``, ``random`` or ``bayes``.
        metric: name of what is compared; a key of ``metrics`` in the result of a trial.
        maximize: whether more of it is better.
        parameters: what is varied.
        subcommand: of ``depth-distill``.
        words: its options, before the parameters.
        run_cap: number of trials at most; None if not limited.
        content: the whole file.
    """

    path: Path
    method: str
    metric: str
    maximize: bool
    parameters: Sequence[Parameter]
    subcommand: str
    words: Sequence[str]
    run_cap: int | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "SweepFile":
        """Read and check a file.

        Raises:
            ConfigError: naming the key, its value and what is expected.
        """
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: expected the keys of a sweep, such as method, metric and parameters")
        for key in content:
            if key not in _KEYS:
                raise ConfigError(f"{path}: there is no key '{key}'; {did_you_mean(str(key), _KEYS)}")
        for key in ("method", "metric", "parameters", "command"):
            if key not in content:
                raise ConfigError(f"{path}: {key} is missing")
        method, metric = content["method"], content["metric"]
        if method not in METHODS:
            raise ConfigError(f"{path}: method: {did_you_mean(str(method), METHODS)}")
        if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
            raise ConfigError(f"{path}: metric: received {metric!r}, expected name and goal")
        goal = metric.get("goal", "minimize")
        if goal not in ("minimize", "maximize"):
            raise ConfigError(f"{path}: metric.goal: {did_you_mean(str(goal), ('minimize', 'maximize'))}")
        entries = content["parameters"]
        if not isinstance(entries, dict) or not entries:
            raise ConfigError(f"{path}: parameters: received {entries!r}, expected at least one")
        parameters = [Parameter.parse(str(name), each, f"{path}: parameters.{name}") for name, each in entries.items()]
        if method == "grid":
            for each in parameters:
                if each.steps is None:
                    raise ConfigError(f"{path}: parameters.{each.name}: a grid needs values, not {each.distribution}")
        cap = content.get("run_cap")
        if cap is not None and (not isinstance(cap, int) or cap < 1):
            raise ConfigError(f"{path}: run_cap: received {cap!r}, expected a whole number of 1 or more")
        subcommand, words = _command(content["command"], content.get("program"), path)
        return cls(path, method, metric["name"], goal == "maximize", parameters, subcommand, words, cap, content)

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """The options that set the parameters of a trial, as an agent of Weights & Biases writes them."""
        return [f"--{name}={_text(value)}" for name, value in values.items()]


def _command(command: Any, program: Any, path: Path) -> tuple[str, list[str]]:
    """The subcommand of depth-distill that a command runs, and its options without the parameters."""
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise ConfigError(f"{path}: command: expected a list of words, such as - python, - -m, - depth_distill, - fit")
    if not any(macro in command for macro in _ARGUMENTS):
        raise ConfigError(f"{path}: command: ${{args}} is missing, which the parameters take the place of")
    words = [str(program) if word == "${program}" else word for word in command if word not in _ARGUMENTS]
    words = [word for word in words if word not in ("${env}", "/usr/bin/env")]
    if words[:1] and words[0] in (*_PYTHON, sys.executable):
        words = words[1:]
    if words[:2] == ["-m", "depth_distill"]:
        words = words[2:]
    elif words[:1] == ["depth-distill"]:
        words = words[1:]
    else:
        raise ConfigError(f"{path}: command: expected python -m depth_distill, or depth-distill, and a subcommand")
    macros = [word for word in words if word.startswith("${")]
    if not words or macros:
        what = f"cannot have {macros[0]}" if macros else "a subcommand is missing"
        raise ConfigError(
            f"{path}: command: {what}; expected for example - fit, - --config=distill/kitchen, - ${{args}}"
        )
    return words[0], words[1:]


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
