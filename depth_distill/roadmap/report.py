"""Write the results of a roadmap as tables and a chart."""

import csv
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from depth_distill.atomic import atomic_path
from depth_distill.display.pictures import save_figure

COLUMNS = ("abs_rel", "rmse", "delta1", "x FP32", "drift mm", "MB", "s")
MEASURED = ("abs_rel", "rmse", "delta1", "drift_mm", "megabytes", "seconds")
"""Numbers that are stored per result."""
SUBSTITUTED = "substituted_abs_rel"
"""abs_rel after a tool chain that substitutes operators, where a roadmap has one."""
IN_FLOAT = "abs_rel_in_float"
"""abs_rel of a trained student before it is quantized."""
_IF_TRAINED = "x FP32 in float"
_IF_SUBSTITUTED = ("x FP32 substituted", "drift mm substituted")
_IF_PLANNED = "planned x FP32"
_TICKS = (0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)


def summarize(results: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over seeds of every measured number; empty if there is no result."""
    measured = [each for each in results.values() if "abs_rel" in each]
    if not measured:
        return {}
    columns = {name: [float(each[name]) for each in measured] for name in MEASURED}
    return {
        name: (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
        for name, values in columns.items()
    }


def columns(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Titles of the columns: :data:`COLUMNS`, and those of what this roadmap has besides."""
    every = [
        each
        for network in found["networks"].values()
        for results in network["rows"].values()
        for each in results.values()
    ]
    trained = (_IF_TRAINED,) if any(IN_FLOAT in each for each in every) else ()
    more = _IF_SUBSTITUTED if any(SUBSTITUTED in each for each in every) else ()
    return (*COLUMNS, *trained, *more, *([_IF_PLANNED] if found.get("planned") else []))


def rows(found: Mapping[str, Any], title: str) -> dict[str, list[str]]:
    """Cells of every row of a network, by name of the row, in the order of :func:`columns`."""
    network, titles = found["networks"][title], columns(found)
    exact, table = float_abs_rel(network), {}
    for name, results in network["rows"].items():
        row = cells(results, exact)
        if _IF_TRAINED in titles:
            row.append(_in_float(results, exact))
        if _IF_SUBSTITUTED[0] in titles:
            row += _substituted_cells(results, exact)
        if _IF_PLANNED in titles:
            planned = found["planned"].get(name)
            row.append("-" if planned is None else f"{planned:.2f}")
        table[name] = row
    return table


def _in_float(results: Mapping[str, Mapping[str, Any]], exact: float) -> str:
    measured = [each[IN_FLOAT] / exact for each in results.values() if IN_FLOAT in each]
    return f"{statistics.fmean(measured):.3f}" if measured else "-"


def _substituted_cells(results: Mapping[str, Mapping[str, Any]], exact: float) -> list[str]:
    measured = [each for each in results.values() if SUBSTITUTED in each]
    if not measured:
        return ["-", "-"]
    ratio = statistics.fmean(each[SUBSTITUTED] for each in measured) / exact
    return [f"{ratio:.3f}", f"{statistics.fmean(each['substituted_drift_mm'] for each in measured):.1f}"]


def cells(results: Mapping[str, Mapping[str, Any]], float_abs_rel: float) -> list[str]:
    """Cells of a row, in the order of :data:`COLUMNS`; the reason instead of numbers if the row could not run."""
    values = summarize(results)
    if not values:
        reason = next((each["why_not"] for each in results.values()), "not measured yet")
        return [f"cannot run: {reason}", *[""] * (len(COLUMNS) - 1)]
    seeds = sum("abs_rel" in each for each in results.values())

    def cell(name: str, digits: int, scale: float = 1.0) -> str:
        mean, spread = values[name]
        text = f"{mean * scale:.{digits}f}"
        return f"{text} ± {spread * scale:.{digits}f}" if seeds > 1 and name not in ("megabytes", "seconds") else text

    return [
        cell("abs_rel", 4), cell("rmse", 3), cell("delta1", 4), cell("abs_rel", 3, 1 / float_abs_rel),
        cell("drift_mm", 1), cell("megabytes", 1), cell("seconds", 0),
    ]  # fmt: skip


def write_results(found: Mapping[str, Any], out: Path) -> None:
    """Write ``roadmap.md``, ``roadmap.csv`` and ``roadmap.png`` into ``out``."""
    lines = [f"{found['protocol']}; ± is the standard deviation over seeds.", ""]
    titles = columns(found)
    records = [["network", "row", *titles]]
    for title, network in found["networks"].items():
        note = f" (channel ranges spread by sigma {network['sigma']:.3f})" if network["sigma"] else ""
        lines += [f"### {title}{note}", "", f"| row | {' | '.join(titles)} |", "| --- |" + " ---: |" * len(titles)]
        for name, row in rows(found, title).items():
            lines.append(f"| {name} | {' | '.join(row)} |")
            records.append([title, name, *row])
        lines.append("")
    with atomic_path(out / "roadmap.md") as temporary:
        temporary.write_text("\n".join(lines))
    with atomic_path(out / "roadmap.csv") as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows(records)
    save_figure(_picture(found), out / "roadmap.png")


def _picture(found: Mapping[str, Any]) -> Figure:
    """abs_rel over FP32 on a log scale, with one panel per network and one dot per seed."""
    networks = found["networks"]
    longest = max(len(network["rows"]) for network in networks.values())
    figure = Figure(figsize=(6.5 * len(networks), 1.2 + 0.42 * longest), layout="constrained")
    for ax, (title, network) in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks.items(), strict=True):
        exact = float_abs_rel(network)
        names = list(network["rows"])
        for place, name in enumerate(names):
            ratios = [each["abs_rel"] / exact for each in network["rows"][name].values() if "abs_rel" in each]
            if not ratios:
                ax.text(1.0, place, " cannot run", va="center", fontsize=8, color="gray")
                continue
            mean = statistics.fmean(ratios)
            ax.barh(place, mean - 1, left=1, color="tab:blue" if mean <= 1 else "tab:orange", alpha=0.6)
            ax.plot(ratios, [place] * len(ratios), "k.", markersize=4)
            others = [each[SUBSTITUTED] / exact for each in network["rows"][name].values() if each.get(SUBSTITUTED)]
            ax.plot(others, [place] * len(others), "D", markersize=6, color="tab:red", markerfacecolor="none")
            ratios += others
            second = f"; {statistics.fmean(others):.3f}" if others else ""
            ax.annotate(
                f"{mean:.3f}{second}", (max(*ratios, 1.0), place), xytext=(4, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_xscale("log")
        low, high = ax.get_xlim()
        ax.set_xlim(low, high * (high / low) ** 0.12)
        ax.set_xticks([tick for tick in _TICKS if low <= tick <= high], minor=False)
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter(_plain)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.invert_yaxis()
        ax.set_title(title)
    substituted = (
        "; red, and the second number: with operators substituted" if _IF_SUBSTITUTED[0] in columns(found) else ""
    )
    label = "abs_rel over FP32, after the tool chain's own PTQ (mixed: fake quantization)"
    figure.supxlabel(label + substituted, fontsize=9)
    return figure


def float_abs_rel(network: Mapping[str, Any]) -> float:
    """abs_rel of the first float row; NaN if there is none."""
    values = [each["abs_rel"] for results in network["rows"].values() for each in results.values() if each.get("float")]
    return float(values[0]) if values else math.nan


def _plain(value: float, _: object) -> str:
    return f"{value:g}"
