"""The log of a run, ``metrics.csv``, as series of numbers; also where the run went on, or was killed."""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from depth_distill.errors import ConfigError
from depth_distill.runs import METRICS_LOG

_AXES = ("epoch", "step")
_PART = re.compile(r"metrics\.(\d+)\.csv")


@dataclass(frozen=True)
class Point:
    """A number that was logged.

    Attributes:
        step: optimizer step, from 0.
        epoch: from 0.
        value: the number; NaN and infinities as they were logged.
    """

    step: int
    epoch: int
    value: float


@dataclass(frozen=True)
class Log:
    """What a run logged.

    Attributes:
        series: points by name, in the order of their steps.
        notes: what could not be read, for people.
    """

    series: Mapping[str, list[Point]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> list[Point]:
        """The points of a name; none if it was not logged."""
        return self.series.get(name, [])

    def below(self, prefix: str) -> list[str]:
        """The names that begin with ``prefix``."""
        return [name for name in self.series if name.startswith(prefix)]

    @property
    def last(self) -> Point | None:
        """The point of the last step; None if nothing was logged."""
        return max((points[-1] for points in self.series.values()), key=lambda each: each.step, default=None)

    def non_finite(self, names: Iterable[str]) -> dict[str, Point]:
        """The first NaN or infinity of each of these names that has one."""
        firsts = {name: next((each for each in self[name] if not math.isfinite(each.value)), None) for name in names}
        return {name: point for name, point in firsts.items() if point is not None}


def read_log(folder: Path) -> Log:
    """Read the log of a run with its earlier parts, ``metrics.1.csv`` and so on.

    Steps that a resumed run did once more are those of the later part.

    Raises:
        ConfigError: a file cannot be read as text.
    """
    parts = sorted((int(part[1]), path) for path in folder.glob("metrics.*.csv") if (part := _PART.match(path.name)))
    files = [path for _, path in parts] + [path for path in [folder / METRICS_LOG] if path.is_file()]
    series: dict[str, list[Point]] = {}
    notes: list[str] = []
    for path in files:
        found, note = _read(path)
        first = min((points[0].step for points in found.values()), default=None)
        if first is not None:
            for name, points in series.items():
                series[name] = [each for each in points if each.step < first]
        for name, points in found.items():
            series[name] = series.get(name, []) + points
        notes += note
    if len(files) > 1:
        notes.append(f"The run was resumed: its log is {', '.join(path.name for path in files)}.")
    return Log({name: points for name, points in series.items() if points}, tuple(notes))


def _read(path: Path) -> tuple[dict[str, list[Point]], list[str]]:
    series: dict[str, list[Point]] = {}
    skipped, step = 0, 0
    try:
        text = path.read_text("utf-8")
        lines = text.splitlines(keepends=True)
        if lines and not text.endswith("\n"):
            lines.pop()  # the number at its end may have lost digits
            skipped = 1
        for row in csv.DictReader(lines):
            epoch = _number(row.get("epoch"))
            step = int(_number(row.get("step"), step))
            for name, cell in row.items():
                if name in (*_AXES, None) or not isinstance(cell, str) or not cell:
                    continue
                try:
                    series.setdefault(name, []).append(Point(step, int(epoch), float(cell)))
                except ValueError:
                    skipped += 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV ({error}); move it away to leave it out") from error
    for points in series.values():
        points.sort(key=lambda each: each.step)
    note = f"{path.name}: {skipped} {'entries' if skipped > 1 else 'entry'} could not be read, and left out."
    return series, [note] if skipped else []


def _number(text: str | None, default: float = 0) -> float:
    try:
        value = float(text or "")
    except ValueError:
        return default
    return value if math.isfinite(value) else default
