"""The curves of a run: losses and their terms, learning rate, gradient norm, metrics, depth bands, and all else."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from depth_distill.tracking.run_report.folder import RunFolder
from depth_distill.tracking.run_report.judge import Monitored
from depth_distill.tracking.run_report.log import Point
from depth_distill.tracking.run_report.page import Plot, Size

SPLITS = ("val", "vendor")
METRIC_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
"""Those of :mod:`depth_distill.metrics`, which takes seconds to import, and in its order."""
_MOST_POINTS = 1000  # of a curve
_MOST_OTHERS = 24  # plots of what this package does not log itself
_SMALL_RUN = 12  # points up to which a curve has markers
_STEPPED = ("train/loss", "val/loss", "train/lr", "train/grad_norm")
_BANDED = ("abs_rel", "rmse", "delta1")
_TITLES = {"val": "val", "vendor": "vendor"}
_COLORS = ("#2f6f9f", "#d08c2f", "#3a923a", "#b03a3a", "#7a5fa8", "#5b6675")


def curves(run: RunFolder, judged: Monitored | None) -> tuple[list[Plot], list[str]]:
    """The plots of a log, and what has to be said about them.

    Args:
        run: the run.
        judged: the metric whose best step is marked.
    """
    log = run.log.series
    bands = _bands(log)
    plots = [
        _plot("loss", {name: log[name] for name in _STEPPED[:2] if name in log}, judged),
        *(_plot(title, terms, judged) for title, terms in _terms(log).items()),
        _plot("learning rate", {name: log[name] for name in ("train/lr",) if name in log}, judged),
        _plot(
            "gradient norm, before clipping", {name: log[name] for name in ("train/grad_norm",) if name in log}, judged
        ),
    ]
    for metric in METRIC_NAMES:
        found = {_TITLES[split]: log[f"{split}/{metric}"] for split in SPLITS if f"{split}/{metric}" in log}
        plots.append(_plot(metric, found, judged, "third"))
    for metric in _BANDED:
        found = {f"{split}, {band}": log[name] for band, split, name in bands if name == f"{split}/{metric}_{band}"}
        plots.append(_plot(f"{metric} by depth band", found, judged, "third"))
    known = {*_STEPPED, *(f"{split}/{metric}" for split in SPLITS for metric in METRIC_NAMES)}
    known |= {name for _, _, name in bands}
    others = [name for name in log if name not in known and not name.startswith("train/")]
    plots += [_plot(name, {name: log[name]}, judged, "third") for name in others[:_MOST_OTHERS]]
    notes = [
        "The axis is the optimizer step. A click on a name of a legend hides its curve, a drag zooms, two clicks reset."
    ]
    if bands:
        notes.append("Bands are dashed for vendor, which is INT8 after the tool chain's own PTQ.")
    if judged is not None:
        notes.append(f"The dotted line is the best {judged.name}, at step {judged.best.step}.")
    if len(others) > _MOST_OTHERS:
        notes.append(f"{len(others) - _MOST_OTHERS} more are in metrics.csv: {', '.join(others[_MOST_OTHERS:][:20])}.")
    if any(len(points) > _MOST_POINTS for points in log.values()):
        notes.append(f"Of long curves about {_MOST_POINTS} evenly spread points are drawn.")
    return [each for each in plots if each.traces], [" ".join(notes)]


def band_names(names: Sequence[str]) -> list[str]:
    """The depth bands of some metrics: ``0.5-2m`` of ``val/abs_rel_0.5-2m``; in the order in which they lie."""
    found = {name.partition("/abs_rel_")[2]: None for name in names if "/abs_rel_" in name}
    return sorted(found, key=_start)


def _start(band: str) -> tuple[float, str]:
    try:
        return float(band.partition("-")[0]), band
    except ValueError:
        return math.inf, band


def _bands(log: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Band, split and name of each metric of a band."""
    found = [
        (band, split, f"{split}/{name}_{band}")
        for band in band_names(list(log))
        for split in SPLITS
        for name in METRIC_NAMES
    ]
    return [each for each in found if each[2] in log]


def _terms(log: Mapping[str, list[Point]]) -> dict[str, dict[str, list[Point]]]:
    """The terms of the loss by the title of their plot: the terms of a distillation are in groups."""
    groups: dict[str, dict[str, list[Point]]] = {}
    for name, points in log.items():
        if not name.startswith("train/") or name in _STEPPED:
            continue
        group, slash, term = name.removeprefix("train/").partition("/")
        title = f"terms of the loss: {group}" if slash else "terms of the loss"
        groups.setdefault(title, {})[term if slash else group] = points
    for title, terms in list(groups.items()):
        group = title.partition(": ")[2]
        # A group of one term is that term, which is drawn among the groups.
        if group and len(terms) == 1 and group in groups.get("terms of the loss", {}):
            (name,) = terms
            groups["terms of the loss"][f"{group} ({name})"] = groups["terms of the loss"].pop(group)
            del groups[title]
    return dict(sorted(groups.items(), key=lambda each: each[0]))


def _plot(title: str, found: Mapping[str, list[Point]], judged: Monitored | None, size: Size = "half") -> Plot:
    """One plot of some curves; of several bands, each has a colour, and those of ``vendor, 2-5m`` are dashed."""
    traces = []
    bands = list(dict.fromkeys(name.partition(", ")[2] for name in found))
    for place, (name, points) in enumerate(found.items()):
        split, _, band = name.partition(", ")
        if len(bands) == 1:
            traces.append(_trace(name, points, _COLORS[place % len(_COLORS)]))
            continue
        is_first = not any(each["legendgroup"] == band for each in traces)
        dash = "dash" if split == "vendor" else "solid"
        trace = _trace(name, points, _COLORS[bands.index(band) % len(_COLORS)], dash)
        traces.append(trace | {"name": html.escape(band), "legendgroup": band, "showlegend": is_first})
    values = [point.value for points in found.values() for point in points if math.isfinite(point.value)]
    layout: dict[str, Any] = {"xaxis": {"title": {"text": "step", "standoff": 6}}, "showlegend": len(found) > 1}
    if values and min(values) > 0 and max(values) > 50 * min(values):
        layout["yaxis"] = {"type": "log"}
        title += " (log scale)"
    if judged is not None and traces:
        line = {"color": "#5b6675", "width": 1, "dash": "dot"}
        step = judged.best.step
        layout["shapes"] = [
            {"type": "line", "xref": "x", "yref": "paper", "x0": step, "x1": step, "y0": 0, "y1": 1, "line": line}
        ]
    names = len(found) if len(bands) == 1 else len(bands)
    rows = math.ceil(names / 3) if len(found) > 1 else 0  # of the legend
    layout["margin"] = {"t": 12 + 20 * rows}
    return Plot(title, traces, layout, (210 if size == "third" else 250) + 20 * rows, size)


def _trace(name: str, points: Sequence[Point], color: str, dash: str = "solid") -> dict[str, Any]:
    every = max(1, len(points) // _MOST_POINTS)
    shown = [*points[:-1:every], points[-1]]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(shown) <= _SMALL_RUN else "lines",
        "name": html.escape(name),  # plotly reads some marks of HTML in names
        "x": [each.step for each in shown],
        "y": [each.value if math.isfinite(each.value) else None for each in shown],
        "customdata": [each.epoch + 1 for each in shown],
        "hovertemplate": "%{y:.5g}<br>step %{x}, epoch %{customdata}",
        "line": {"color": color, "width": 1.8, "dash": dash},
        "marker": {"size": 5},
    }
