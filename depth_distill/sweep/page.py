"""The page of a sweep: the trials ranked, the metric over each parameter, and the command that runs the best one."""

import html
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depth_distill.errors import ConfigError
from depth_distill.runs import SWEEP_FILE, settled
from depth_distill.tracking.run_report.folder import at, read_record
from depth_distill.tracking.run_report.page import Page, Picture, Plot, Section, Table

_MOST_ROWS = 200


def sweep_page(path: Path) -> Page:
    """The page of a folder with ``sweep.json``.

    Raises:
        ConfigError: that file is not the record of a sweep.
    """
    folder = settled(path)
    notes: list[str] = []
    record = read_record(folder / SWEEP_FILE, notes)
    made_with, found = record.get("made_with"), record.get("trials")
    if not isinstance(made_with, Mapping) or not isinstance(found, list):
        raise ConfigError(f"{path / SWEEP_FILE} is not the record of a sweep; give the folder of depth-distill sweep")
    trials = [each for each in found if isinstance(each, Mapping) and isinstance(each.get("parameters"), Mapping)]
    metric = str(made_with.get("metric"))
    maximize = bool(record.get("maximize", "delta" in metric))
    ranked = sorted((each for each in trials if _value(each) is not None), key=_value, reverse=maximize)  # type: ignore[arg-type]
    parameters = made_with.get("parameters")
    names = [str(name) for name in parameters] if isinstance(parameters, Mapping) else []
    failed = [each for each in trials if each.get("state") == "failed"]
    waiting = sum(each.get("state") == "running" for each in trials)
    if failed:
        count = "1 trial" if len(failed) == 1 else f"{len(failed)} trials"
        notes.append(f"{count} failed: see below.")
    if waiting:
        count = "1 trial is" if waiting == 1 else f"{waiting} trials are"
        notes.append(f"{count} unfinished: the same command goes on.")
    command = made_with.get("command")
    words = [str(each) for each in command] if isinstance(command, list) else []
    sections = [
        Section(
            f"{metric} over each parameter", plots=[_plot(name, metric, ranked) for name in names] if ranked else ()
        ),
        Section(
            "Trials",
            [f"{'Higher' if maximize else 'Lower'} is better."],
            tables=[_table(metric, names, [*ranked, *failed])],
        ),
        Section("Parallel coordinates", pictures=_picture(folder)),
        Section("Next", commands=_commands(folder, ranked, words)),
    ]
    return Page(
        title=f"Sweep of {words[0] if words else 'a command'}",
        subtitle=f"{folder}, {len(trials)} trials",
        verdict=[_verdict(metric, ranked)],
        warnings=notes,
        facts=[("command", shlex.join(["depth-distill", *words])), ("metric", metric)],
        sections=[each for each in sections if each.plots or each.tables or each.pictures or each.commands],
    )


def _verdict(metric: str, ranked: Sequence[Mapping[str, Any]]) -> str:
    if not ranked:
        return f"No trial has a value of {metric} yet."
    best = ranked[0]
    settings = ", ".join(f"{_short(str(name))} {_text(value)}" for name, value in best["parameters"].items())
    text = f"Best {metric} {_value(best):.4g} of trial {best.get('number')}: {settings}."
    if len(ranked) < 2:
        return text
    return f"{text} The middle one of {len(ranked)} trials has {_value(ranked[len(ranked) // 2]):.4g}."


def _plot(name: str, metric: str, ranked: Sequence[Mapping[str, Any]]) -> Plot:
    values = [each["parameters"].get(name) for each in ranked]
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    shown = values if are_numbers else [html.escape(_text(value)) for value in values]
    trace = {
        "type": "scatter", "mode": "markers", "x": shown, "y": [_value(each) for each in ranked],
        "customdata": [each.get("number") for each in ranked],
        "hovertemplate": "trial %{customdata}<br>%{x}: %{y:.5g}<extra></extra>",
        "marker": {"size": 8, "color": ["#b03a3a"] + ["#2f6f9f"] * (len(ranked) - 1)},
    }  # fmt: skip
    axis: dict[str, Any] = {"title": {"text": html.escape(_short(name))}}
    positive = [value for value in values if are_numbers and value > 0]
    if not are_numbers:
        axis["type"] = "category"
    elif len(positive) == len(values) and max(positive) > 20 * min(positive):
        axis["type"] = "log"
    return Plot(
        _short(name), [trace], {"xaxis": axis, "yaxis": {"title": {"text": html.escape(metric)}}, "showlegend": False}
    )


def _table(metric: str, names: Sequence[str], trials: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for each in trials[:_MOST_ROWS]:
        settings = [_text(each["parameters"].get(name)) for name in names]
        outcome = _text(_value(each)) if _value(each) is not None else str(each.get("message") or each.get("state"))
        rows.append([str(each.get("number")), outcome, *settings, _text(each.get("seconds"))])
    return Table(["trial", metric, *map(_short, names), "s"], rows)


def _picture(folder: Path) -> list[Picture]:
    path = folder / "sweep.png"
    content = path.read_bytes() if path.is_file() else b""
    return [Picture(path.name, content)] if content.startswith(b"\x89PNG") else []


def _commands(folder: Path, ranked: Sequence[Mapping[str, Any]], words: Sequence[str]) -> list[tuple[str, str]]:
    if not ranked or not words:
        return []
    best = ranked[0]
    found = []
    trial = folder / "trials" / f"{best.get('number'):03}" if isinstance(best.get("number"), int) else None
    if trial is not None and (trial / "config.yaml").is_file():
        found.append(("The page of the best trial", shlex.join(["depth-distill", "report", str(trial)])))
    options = [f"--{name}={value}" for name, value in best["parameters"].items()]
    return [*found, ("The command of the best trial", shlex.join(["depth-distill", *words, *options]))]


def _value(trial: Mapping[str, Any]) -> float | None:
    value = at(trial, "value")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _short(name: str) -> str:
    return name.removeprefix("model.init_args.").replace(".init_args", "")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
