"""The picture of a diagnosis: what the device makes of a code, what the error consists of, where it is."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

_BLUE, _ORANGE, _RED, _GREY = "#3b6fb6", "#d98032", "#b23b3b", "#999999"
_LONGEST = 46  # characters of a suspect's name beside its bar


@dataclass(frozen=True)
class CurveOf:
    """One panel of what a device makes of what the float network says.

    Attributes:
        name: of what is on both axes.
        centres: of the bins of what the float network says, ``(N,)``.
        mean: of what the device says there.
        spread: one standard deviation of it.
        ends: of both axes.
        suspect: what a named suspect says at ``centres``; None without one.
    """

    name: str
    centres: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    ends: tuple[float, float]
    suspect: NDArray[np.float64] | None = None


def diagnosis_picture(
    title: str,
    curve: CurveOf,
    parts: Sequence[tuple[str, float, float]],
    mean_map_mm: NDArray[np.float64],
    suspects: Sequence[tuple[str, float]],
    named: int | None,
) -> Figure:
    """Four panels.

    Args:
        title: the verdict.
        curve: the curve.
        parts: name, share of the squared error in [0, 1] and mm of each part.
        mean_map_mm: mean error at each pixel, ``(H, W)``, signed.
        suspects: name and explained share of the squared error, the largest first.
        named: place among ``suspects`` of the one that is named.
    """
    figure = Figure(figsize=(13, 9), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 150)), fontsize=10)
    axes = figure.subplots(2, 2)
    _draw_curve(axes[0, 0], curve)
    _draw_parts(axes[0, 1], parts)
    _draw_map(figure, axes[1, 0], mean_map_mm)
    _draw_suspects(axes[1, 1], suspects, named)
    return figure


def _draw_curve(ax: Axes, curve: CurveOf) -> None:
    low, high = curve.mean - curve.spread, curve.mean + curve.spread
    ax.plot(curve.ends, curve.ends, color="black", linewidth=0.7, label="nothing wrong")
    ax.fill_between(curve.centres, low, high, color=_ORANGE, alpha=0.3, linewidth=0, label="one standard deviation")
    ax.plot(curve.centres, curve.mean, color=_ORANGE, marker=".", markersize=4, linewidth=1, label="mean")
    if curve.suspect is not None:
        ax.plot(curve.centres, curve.suspect, color=_RED, linestyle="--", linewidth=1.3, label="the suspect")
    ax.set_xlabel(f"{curve.name} of the float network")
    ax.set_ylabel(f"{curve.name} of the device")
    seen = np.concatenate([curve.centres, low, high])
    margin = 0.04 * (curve.ends[1] - curve.ends[0])
    limits = (
        max(curve.ends[0] - margin, float(seen.min()) - margin),
        min(curve.ends[1] + margin, float(seen.max()) + margin),
    )
    ax.set_xlim(*limits)
    ax.set_ylim(*limits)
    ax.set_title("What the device makes of it", fontsize=10)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def _draw_parts(ax: Axes, parts: Sequence[tuple[str, float, float]]) -> None:
    places = range(len(parts))
    ax.barh(places, [100 * share for _, share, _ in parts], color=_BLUE)
    for place, (_, share, mm) in enumerate(parts):
        ax.text(100 * share, place, f" {100 * share:.1f} %, {mm:.1f} mm", va="center", fontsize=8)
    ax.set_yticks(places, [name for name, _, _ in parts], fontsize=9)
    ax.set_ylim(len(parts) - 0.5, -0.5)
    ax.set_xlim(0, 130)  # room for the figures beside a bar of 100 %
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("share of the squared error [%] (mm: of the mean error)")
    ax.set_title("What the error consists of", fontsize=10)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)


def _draw_map(figure: Figure, ax: Axes, mean_map_mm: NDArray[np.float64]) -> None:
    worst = max(float(np.percentile(np.abs(mean_map_mm), 99)), 0.1)
    drawn = ax.imshow(mean_map_mm, cmap="RdBu_r", norm=Normalize(-worst, worst), interpolation="nearest")
    figure.colorbar(drawn, ax=ax, fraction=0.035, pad=0.02).ax.tick_params(labelsize=7)
    ax.set_axis_off()
    ax.set_title("Mean error behind a table, over all images [mm]", fontsize=10)


def _draw_suspects(ax: Axes, suspects: Sequence[tuple[str, float]], named: int | None) -> None:
    colors = [_RED if place == named else _GREY for place in range(len(suspects))]
    ax.barh(range(len(suspects)), [max(0.0, 100 * share) for _, share in suspects], color=colors)
    for place, (_, share) in enumerate(suspects):
        text = f" {100 * share:.1f} %" if share > -1 else " makes it worse"
        ax.text(max(0.0, 100 * share), place, text, va="center", fontsize=8)
    ax.set_yticks(
        range(len(suspects)), [textwrap.shorten(name, _LONGEST, placeholder=" ...") for name, _ in suspects], fontsize=8
    )
    ax.set_ylim(len(suspects) - 0.5, -0.5)
    ax.set_xlim(0, 120)
    ax.set_xticks(range(0, 101, 20))
    ax.axvline(50, color="black", linestyle=":", linewidth=0.8)
    ax.set_xlabel("explained share of the squared error [%]; named above 50 %")
    ax.set_title("Suspects that explain most", fontsize=10)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
