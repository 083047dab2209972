"""The end of a sweep: the trials ranked as a table, a CSV file, JSON, and parallel coordinates."""

import csv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from depth_distill.atomic import atomic_path, write_json
from depth_distill.display.parallel_coordinates import Axis, parallel_coordinates
from depth_distill.display.pictures import save_figure
from depth_distill.sweep.file import SweepFile
from depth_distill.sweep.trials import Trial, Trials

_SHOWN = 20  # rows of the table; the CSV file has all
_PREFIX = "model.init_args."


def line(trial: Trial, sweep: SweepFile, trials: Trials) -> str:
    """What to say of a trial that ended."""
    settings = "  ".join(f"{_short(name)} {_text(value)}" for name, value in trial.parameters.items())
    if trial.value is None:
        return f"trial {trial.number}  {trial.state}: {trial.message}  ({settings})"
    best = trials.finished[0]
    ahead = "the best so far" if best is trial else f"best {best.value:.4g} of trial {best.number}"
    return f"trial {trial.number}  {sweep.metric} {trial.value:.4g} ({ahead})  {settings}  {trial.seconds:.0f} s"


def write(sweep: SweepFile, trials: Trials, console: Console, json_file: Path | None = None) -> None:
    """Print the table and write ``sweep.csv`` and ``sweep.png``; ``sweep.json`` is there already."""
    ranked = trials.finished
    failed = [each for each in trials.all if each.state == "failed"]
    console.print(_table(sweep, ranked, len(failed)))
    with atomic_path(trials.out / "sweep.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        names = [each.name for each in sweep.parameters]
        writer.writerow(["trial", "state", sweep.metric, *names, "seconds", "message"])
        for each in (*ranked, *(each for each in trials.all if each.value is None)):
            values = [each.parameters.get(name) for name in names]
            writer.writerow([each.number, each.state, each.value, *values, each.seconds, each.message])
    axes = [
        Axis(_short(each.name), [trial.parameters[each.name] for trial in ranked], each.is_logarithmic)
        for each in sweep.parameters
    ]
    metric = [trial.value or 0.0 for trial in ranked]
    title = f"{sweep.path.stem}: {len(ranked)} trials"
    save_figure(parallel_coordinates(axes, sweep.metric, metric, sweep.maximize, title), trials.out / "sweep.png")
    if json_file is not None:
        write_json(json_file, {"metric": sweep.metric, "best": _record(ranked[0]), "trials": [*map(_record, ranked)]})
    console.print(f"best     {trials.folder(ranked[0])}", soft_wrap=True, highlight=False)
    console.print(f"written  {trials.out}/sweep.json, sweep.csv, sweep.png", soft_wrap=True, highlight=False)


def _table(sweep: SweepFile, ranked: list[Trial], failed: int) -> Table:
    table = Table(title=f"{sweep.path.stem}: {sweep.metric}, the best first", min_width=60)
    for name in ("trial", sweep.metric, *(_short(each.name) for each in sweep.parameters), "s"):
        table.add_column(name, justify="right")
    for trial in ranked[:_SHOWN]:
        settings = [_text(trial.parameters.get(each.name)) for each in sweep.parameters]
        table.add_row(str(trial.number), f"{trial.value:.4f}", *settings, f"{trial.seconds or 0:.0f}")
    notes = [f"{len(ranked) - _SHOWN} more in sweep.csv"] if len(ranked) > _SHOWN else []
    notes += [f"{failed} failed: see sweep.csv and trials/*.log"] if failed else []
    table.caption = "; ".join(notes) or None
    return table


def _record(trial: Trial) -> dict[str, Any]:
    return {"trial": trial.number, "value": trial.value, "parameters": trial.parameters, "metrics": trial.metrics}


def _short(name: str) -> str:
    """The name of a parameter without what all of them have in front."""
    return name.removeprefix(_PREFIX).replace(".init_args", "")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
