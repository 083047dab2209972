"""Parallel coordinates: a line per trial across an axis per parameter, coloured by what came out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

_LESS_IS_BETTER, _MORE_IS_BETTER = "viridis", "viridis_r"  # dark is better: yellow is hard to see on white
_TICKS = 5
_FEW = 6  # different numbers on an axis, up to which each is written, and no others
_LABEL = 0.04  # height of a label, as a share of the axis: nearer ones would cover each other
_LONGEST = 36  # characters of a choice beside its axis


@dataclass(frozen=True)
class Axis:
    """One parameter.

    Attributes:
        name: below the axis.
        values: one per line; numbers, or anything that is told apart by its text.
        is_logarithmic: whether numbers are spread by their logarithm.
    """

    name: str
    values: Sequence[Any]
    is_logarithmic: bool = False


def parallel_coordinates(
    axes: Sequence[Axis], metric: str, values: Sequence[float], maximize: bool, title: str
) -> Figure:
    """A figure with an axis per parameter, and the metric on the right.

    Args:
        axes: the parameters.
        metric: name of what came out.
        values: one per line; the best is drawn on top, and thick.
        maximize: whether more is better.
        title: title of the figure.
    """
    every = [*axes, Axis(metric, list(values))]
    figure = Figure(figsize=(2.2 * len(every) + 1, 4.2), layout="constrained")
    figure.suptitle(title)
    ax: Axes = figure.subplots()
    positions = np.array([_place(ax, index, axis) for index, axis in enumerate(every)])  # (axes, lines)
    colors = colormaps[_MORE_IS_BETTER if maximize else _LESS_IS_BETTER]
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1)
    order = sorted(range(len(values)), key=lambda line: values[line], reverse=not maximize)
    for line in order:
        is_best = line == order[-1]
        ax.plot(
            range(len(every)),
            positions[:, line],
            color=colors(norm(values[line])),
            linewidth=3.0 if is_best else 1.2,
            alpha=1.0 if is_best else 0.7,
        )
    ax.set_xticks(range(len(every)), [axis.name for axis in every], fontsize=8)
    ax.set_yticks([])
    ax.set_xlim(-0.2, len(every) - 0.6)
    ax.set_ylim(-0.06, 1.06)
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    return figure


def _place(ax: Axes, index: int, axis: Axis) -> list[float]:
    """Draw an axis with its ticks; the height in [0, 1] of each value."""
    ax.axvline(index, color="black", linewidth=0.8)
    numbers = [value for value in axis.values if isinstance(value, int | float) and not isinstance(value, bool)]
    distinct = list(dict.fromkeys(str(value) for value in axis.values))
    if len(numbers) == len(axis.values) and len(distinct) > 1:
        scaled = [math.log(value) if axis.is_logarithmic and min(numbers) > 0 else float(value) for value in numbers]
        low, high = min(scaled), max(scaled)
        heights_of_lines = [(value - low) / (high - low) for value in scaled]
        if len(distinct) <= _FEW:
            labelled: list[float] = []
            for height, value in sorted(zip(heights_of_lines, numbers, strict=True)):
                if all(abs(height - other) > _LABEL for other in labelled):
                    labelled.append(height)
                    _label(ax, index, height, f"{value:.3g}")
            return heights_of_lines
        for tick in np.linspace(0, 1, _TICKS):
            value = low + tick * (high - low)
            value = math.exp(value) if axis.is_logarithmic and min(numbers) > 0 else value
            _label(ax, index, float(tick), f"{value:.3g}")
        return heights_of_lines
    heights = {name: (place + 0.5) / len(distinct) for place, name in enumerate(sorted(distinct))}
    for name, height in heights.items():
        _label(ax, index, height, name if len(name) <= _LONGEST else f"{name[: _LONGEST - 2]} …")
    return [heights[str(value)] for value in axis.values]


def _label(ax: Axes, index: int, height: float, text: str) -> None:
    ax.annotate(
        text,
        (index, height),
        (5, 0),
        textcoords="offset points",
        fontsize=7,
        va="center",
        zorder=5,  # above the lines, which would strike it through
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
    )
