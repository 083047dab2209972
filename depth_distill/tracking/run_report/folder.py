"""What lies in a run folder, read without trust: any file may be missing, cut short, or somebody else's."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from depth_distill import runs
from depth_distill.errors import ConfigError, one_line
from depth_distill.tracking.run_report.log import Log, read_log
from depth_distill.yaml_files import parse_yaml, read_yaml_text


@dataclass(frozen=True)
class LayerRow:
    """A row of ``layers.csv``: see :class:`~depth_distill.callbacks.layer_ranges.LayerRange`."""

    epoch: int
    layer: str
    kind: str
    min: float
    max: float
    low: float | None
    high: float | None
    saturated: float | None


@dataclass(frozen=True)
class RunFolder:
    """A run folder that was read.

    Attributes:
        path: the folder.
        config: content of ``config.yaml``; empty where that cannot be read.
        config_text: its text.
        log: ``metrics.csv``.
        summary: ``summary.json`` of a training.
        evaluation: ``evaluation.json`` of an evaluation.
        diverged: ``diverged.json`` of a training that ended so.
        layers: ``layers.csv``.
        notes: what could not be read, for people.
    """

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    log: Log = field(default_factory=Log)
    summary: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    diverged: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[LayerRow, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def job(self) -> str:
        """``fit``, ``validate``, ``test`` or ``predict``."""
        if self.evaluation:
            return "test" if self.evaluation.get("split") == "test" else "validate"
        trained = (self.path / "checkpoints").is_dir() or self.summary or self.log.below("train/")
        if not trained and (self.path / "predictions").is_dir():
            return "predict"
        evaluated = not trained and self.path.parent.name in runs.EVALUATIONS
        return self.path.parent.name if evaluated else "fit"

    @property
    def started(self) -> str:
        """When: by the name of the folder, else when its config was written."""
        try:
            when = datetime.strptime(self.path.name[:19], "%Y-%m-%d_%H-%M-%S")
        except ValueError:
            when = datetime.fromtimestamp((self.path / runs.CONFIG_FILE).stat().st_mtime)
        return f"{when:%Y-%m-%d %H:%M}"

    def at(self, *keys: str) -> Any:
        """A value of the config by the keys that lead to it; None if there is none."""
        return at(self.config, *keys)


def at(values: Any, *keys: str) -> Any:
    """A value in nested mappings by the keys that lead to it; None if there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def read_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        ConfigError: it is none, and the message says what is missing; or its log is no text.
    """
    folder = runs.settled(path)
    _require_run(folder, path)
    notes: list[str] = []
    config: Any = {}
    text = ""
    try:
        text = read_yaml_text(folder / runs.CONFIG_FILE)
        config = parse_yaml(text, runs.CONFIG_FILE)
    except ConfigError as error:
        notes.append(f"The config cannot be read: {error}.")
    log = read_log(folder)
    return RunFolder(
        path=folder,
        config=config if isinstance(config, Mapping) else {},
        config_text=text,
        log=log,
        summary=read_record(folder / runs.SUMMARY_FILE, notes),
        evaluation=read_record(folder / runs.EVALUATION_FILE, notes),
        diverged=read_record(folder / runs.DIVERGED_FILE, notes),
        layers=_read_layers(folder / runs.LAYERS_LOG, notes),
        notes=(*notes, *log.notes),
    )


def read_record(path: Path, notes: list[str]) -> dict[str, Any]:
    """An object in JSON; empty, with a note, where it is none, and without one where there is no file."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read, and is left out: {one_line(error)}.")
        return {}
    if not isinstance(found, dict):
        notes.append(f"{path.name} holds no record, and is left out.")
        return {}
    return found


def numbers(found: Any) -> dict[str, float]:
    """The entries of a record that are numbers; null, as NaN is written, is NaN."""
    if not isinstance(found, Mapping):
        return {}
    values = {str(name): math.nan if value is None else value for name, value in found.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _require_run(folder: Path, given: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{given} is no folder; give a run folder, such as runs/NAME/latest")
    if (folder / runs.CONFIG_FILE).is_file():
        return
    inside = sorted(each.parent for each in folder.glob(f"*/{runs.CONFIG_FILE}"))
    hint = f"; did you mean {given / runs.LATEST if (folder / runs.LATEST).is_dir() else inside[-1]}?" if inside else ""
    raise ConfigError(
        f"{given} is no run folder: {runs.CONFIG_FILE} is missing, and so are {runs.SWEEP_FILE} of a sweep and "
        f"{runs.ROADMAP_FILE} of a roadmap{hint or '; give one such as runs/NAME/latest'}"
    )


def _read_layers(path: Path, notes: list[str]) -> tuple[LayerRow, ...]:
    if not path.is_file():
        return ()
    rows, skipped = [], 0
    try:
        for row in csv.DictReader(path.read_text("utf-8").splitlines()):
            try:
                ends = (float(row["min"]), float(row["max"]))
                low, high, saturated = (float(row[key]) if row[key] else None for key in ("low", "high", "saturated"))
                rows.append(LayerRow(int(row["epoch"]), row["layer"], row["kind"], *ends, low, high, saturated))
            except (KeyError, TypeError, ValueError):
                skipped += 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        notes.append(f"{path.name} cannot be read, and is left out: {one_line(error)}.")
    if skipped:
        notes.append(f"{path.name}: {skipped} rows could not be read, and are left out.")
    return tuple(rows)
