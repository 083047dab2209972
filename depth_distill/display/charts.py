"""Charts of analyses: bars and curves of numbers that are also in the tables."""

import textwrap
from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

_BLUE, _ORANGE, _GREEN, _RED = "#2f6f9f", "#d08c2f", "#3a923a", "#b03a3a"


def paired_bars(
    names: Sequence[str],
    left: tuple[str, Sequence[float]],
    right: tuple[str, Sequence[float]],
    title: str,
    lines: Sequence[tuple[str, float, str]] = (),
) -> Figure:
    """Two panels of horizontal bars side by side, one row per name, the first name on top.

    Args:
        names: names of the rows.
        left: axis label and values of the left panel.
        right: axis label and values of the right panel.
        title: title of the figure; long lines are wrapped.
        lines: name, position and written value of vertical lines in both panels, such as float and integer.
    """
    figure = Figure(figsize=(11, 1.8 + 0.22 * len(names)), layout="constrained")
    figure.suptitle(_wrapped(title, 130), fontsize=10)
    one, two = figure.subplots(1, 2, sharey=True)
    for ax, (label, values), color in ((one, left, _BLUE), (two, right, _ORANGE)):
        ax.barh(range(len(names)), values, color=color)
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set_xlabel(label)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
        for (name, value, text), shade in zip(lines, cycle((_GREEN, _RED)), strict=False):
            ax.axvline(value, color=shade, linestyle="--", linewidth=1.2, label=f"{name} {text}")
    one.set_yticks(range(len(names)), names, fontsize=7)
    one.set_ylim(len(names) - 0.5, -0.5)
    if lines:
        one.legend(fontsize=8)
    return figure


def size_curve(
    points: Sequence[tuple[float, float]],
    chosen: tuple[float, float],
    title: str,
    float_abs_rel: float,
    target_abs_rel: float,
) -> Figure:
    """abs_rel against megabytes, with the float network and the target as lines and the chosen point marked."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    ax: Axes = figure.subplots()
    ax.step(*zip(*points, strict=True), where="post", color=_BLUE, marker="o", markersize=4, label="best of its size")
    ax.plot(*chosen, marker="*", markersize=15, color=_RED, linestyle="", label="chosen")
    ax.axhline(float_abs_rel, color=_GREEN, linestyle="--", label=f"FP32 {float_abs_rel:.4f}")
    ax.axhline(target_abs_rel, color=_ORANGE, linestyle=":", label=f"target {target_abs_rel:.4f}")
    ax.set_xlabel("weights and biases [MB]")
    ax.set_ylabel("abs_rel")
    figure.suptitle(_wrapped(title, 80), fontsize=10)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def before_after_bars(
    rows: Sequence[tuple[str, float, float]], xlabel: str, title: str, labels: tuple[str, str] = ("before", "after")
) -> Figure:
    """Two horizontal bars per row in one panel, the first row on top.

    Args:
        rows: name, value before and value after; NaN leaves a bar out.
        xlabel: label of the axis.
        title: title of the figure.
        labels: names of the two bars, for the legend.
    """
    figure = Figure(figsize=(9.5, 1.6 + 0.24 * len(rows)), layout="constrained")
    ax: Axes = figure.subplots()
    for offset, column, color, label in ((-0.2, 1, _ORANGE, labels[0]), (0.2, 2, _BLUE, labels[1])):
        positions = [place + offset for place in range(len(rows))]
        ax.barh(positions, [float(row[column]) for row in rows], height=0.38, color=color, label=label)
    ax.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=7)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    figure.suptitle(_wrapped(title, 110), fontsize=10)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    figure.legend(fontsize=8, loc="outside lower right", ncols=2)  # inside it would lie on bars
    return figure


def drift_bars(rows: Sequence[tuple[str, float, float]], title: str) -> Figure:
    """One horizontal bar per layer, in graph order from the top: mean drift in percent of the layer's range.

    Args:
        rows: name, mean drift as a share of the range in [0, 1], and SQNR in dB of each layer.
        title: title of the figure.
    """
    figure = Figure(figsize=(8.5, 1.4 + 0.2 * len(rows)), layout="constrained")
    ax: Axes = figure.subplots()
    ax.barh(range(len(rows)), [100 * drift for _, drift, _ in rows], color=_BLUE)
    for position, (_, drift, sqnr_db) in enumerate(rows):
        ax.text(100 * drift, position, f" {sqnr_db:.0f} dB", va="center", fontsize=6)
    ax.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=7)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.margins(x=0.1)
    ax.set_xlabel("mean drift, percent of the layer's range (SQNR beside the bar)")
    figure.suptitle(_wrapped(title, 100), fontsize=10)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    return figure


def code_curves(
    curves: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]], title: str
) -> Figure:
    """A panel per code: what is expected over what a device says, and the table that takes one to the other.

    Args:
        curves: name; codes of the device, ``(N,)``; 10th, 50th and 90th percentile of what is expected there,
            ``(3, N)``; and the table at evenly spaced codes from 0 to 1.
        title: title of the figure.
    """
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(1 + 4.2 * columns, 1 + 3.8 * rows), layout="constrained")
    figure.suptitle(_wrapped(title, 60 * columns), fontsize=9)
    for place, (name, codes, spread, table) in enumerate(curves):
        ax: Axes = figure.add_subplot(rows, columns, place + 1)
        ax.plot(
            (0, 1), (0, 1) if table[-1] >= table[0] else (1, 0), color="black", linewidth=0.6, label="nothing wrong"
        )
        ax.fill_between(codes, spread[0], spread[2], color=_ORANGE, alpha=0.3, label="middle 80 % of pixels")
        ax.plot(codes, spread[1], color=_ORANGE, marker=".", linestyle="", label="median of pixels")
        ax.plot([k / (len(table) - 1) for k in range(len(table))], table, color=_BLUE, label="table")
        ax.set_xlabel(f"{name} of the device")
        ax.set_ylabel("expected code")
        ax.grid(alpha=0.3)
        if place == 0:
            ax.legend(fontsize=8)
    return figure


def _wrapped(title: str, width: int) -> str:
    """Lines of at most so many characters, so that the title stays in the figure."""
    return "\n".join(part for line in title.splitlines() for part in textwrap.wrap(line, width))
