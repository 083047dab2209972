"""What passes through each layer: the ranges of the last measurement, and range and saturation over the epochs."""

import html
import math
from collections.abc import Sequence
from typing import Any

from depth_distill.tracking.run_report.folder import LayerRow
from depth_distill.tracking.run_report.page import Plot

_MOST = 50  # layers of a plot
_ROW = 15  # pixels of a layer
_REDS = ((0, "#fdf3ef"), (0.02, "#fbd5c5"), (0.4, "#f0745a"), (1, "#8f1014"))
_LONGEST = 44  # characters of a name


def ranges(rows: Sequence[LayerRow]) -> tuple[list[Plot], list[str]]:
    """The plots of ``layers.csv``, and what has to be said about them."""
    finite = [each for each in rows if math.isfinite(each.min) and math.isfinite(each.max)]
    lines = []
    if len(finite) < len(rows):
        names = list(dict.fromkeys(each.layer for each in rows if each not in finite))
        lines.append(f"Ranges of {len(names)} layers are not finite, and left out: {', '.join(names[:8])}.")
    epochs = sorted({each.epoch for each in finite})
    if not epochs:
        return [], lines
    last = [each for each in finite if each.epoch == epochs[-1]]
    chosen = _choose(last)
    names = [each.layer for each in chosen]
    lines = [_sentence(last, epochs), *lines]
    weights = sum(each.kind == "weight" for each in last if each not in chosen)
    others = len(last) - len(chosen) - weights
    if others or weights:
        left = [f"{others} other layers"] * bool(others) + [f"{weights} weights that are not clipped"] * bool(weights)
        lines.append(f"Drawn are {len(chosen)}, in the order of the network; {' and '.join(left)} are in layers.csv.")
    plots = [_bars(chosen, epochs[-1])]
    if len(epochs) > 1:
        plots.append(_largest(finite, names, epochs))
    clipped = _clipped(finite, epochs)
    return [*plots, *([clipped] if clipped else [])], lines


def _choose(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Layers for a plot, in the order of the network: of many those that saturate most, then the widest."""
    found = [each for each in rows if each.kind != "weight" or (each.saturated or 0) > 0]
    ranked = sorted(found, key=lambda each: (-(each.saturated or 0.0), each.min - each.max))[:_MOST]
    return [each for each in found if each in ranked]


def _sentence(last: Sequence[LayerRow], epochs: Sequence[int]) -> str:
    when = f"Measured on the first validation images after epoch {', '.join(str(epoch + 1) for epoch in epochs[-12:])}"
    widest = max(last, key=lambda each: each.max - each.min)
    text = f"{when}. The widest range is that of {widest.layer}: {widest.min:.4g} to {widest.max:.4g}."
    judged = [each for each in last if each.saturated is not None]
    if not judged:
        return f"{text} The run trains in float, so that nothing is clipped."
    clipped = [each for each in judged if (each.saturated or 0) > 0]
    if not clipped:
        return f"{text} None of {len(judged)} quantizers clips a value."
    most = max(clipped, key=lambda each: each.saturated or 0.0)
    share = f"{most.saturated or 0:.2%}"
    return f"{text} {len(clipped)} of {len(judged)} quantizers clip values; most, {share} of them, {most.layer}."


def _bars(rows: Sequence[LayerRow], epoch: int) -> Plot:
    names = [_short(each.layer) for each in rows]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar", "orientation": "h", "name": "values", "y": names,
            "base": [each.min for each in rows], "x": [each.max - each.min for each in rows],
            "customdata": [[each.min, each.max, html.escape(f"{each.layer} ({each.kind})")] for each in rows],
            "hovertemplate": "%{customdata[2]}<br>%{customdata[0]:.4g} to %{customdata[1]:.4g}<extra></extra>",
            "marker": {"color": "#2f6f9f"},
        }
    ]  # fmt: skip
    if any(each.low is not None for each in rows):
        ends = [(name, end) for name, each in zip(names, rows, strict=True) for end in (each.low, each.high)]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": "ends of what INT8 can represent",
                "y": [name for name, _ in ends], "x": [end for _, end in ends],
                "hovertemplate": "%{x:.4g}<extra></extra>",
                "marker": {"symbol": "line-ns-open", "size": 11, "color": "#b03a3a", "line": {"width": 2}},
            }
        )  # fmt: skip
    layout = _layout(names) | {"bargap": 0.35, "showlegend": len(traces) > 1}
    layout["xaxis"] = {"zeroline": True, "zerolinecolor": "#9aa4b0", "title": {"text": "smallest to largest value"}}
    return Plot(f"range of each layer after epoch {epoch + 1}", traces, layout, _height(names), size="wide")


def _largest(rows: Sequence[LayerRow], names: Sequence[str], epochs: Sequence[int]) -> Plot:
    """The largest absolute value as a heat map on a log scale."""
    found = {(each.layer, each.epoch): max(abs(each.min), abs(each.max)) for each in rows}
    values = [[found.get((name, epoch)) for epoch in epochs] for name in names]
    logs = [[math.log10(value) if value else None for value in row] for row in values]
    color: dict[str, Any] = {"title": {"text": "max |x|", "side": "right"}}
    present = [value for row in logs for value in row if value is not None]
    powers = range(math.floor(min(present, default=0)), math.ceil(max(present, default=1)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in ((1, 2, 5) if len(powers) < 5 else (1,))]
    color |= {"tickvals": [math.log10(tick) for tick in ticks], "ticktext": [f"{tick:g}" for tick in ticks]}
    return _heat(
        "largest absolute value over the epochs", names, epochs, logs, values, "%{customdata:.4g}", "Viridis", color
    )


def _clipped(rows: Sequence[LayerRow], epochs: Sequence[int]) -> Plot | None:
    """The share of clipped values as a heat map of the layers that ever clip one; None if none does."""
    found = {(each.layer, each.epoch): each.saturated for each in rows}
    most: dict[str, float] = {}
    for each in rows:
        most[each.layer] = max(most.get(each.layer, 0.0), each.saturated or 0.0)
    ranked = sorted((name for name, share in most.items() if share > 0), key=lambda name: -most[name])[:_MOST]
    names = [name for name in most if name in ranked]
    if not names:
        return None
    shares = [[found.get((name, epoch)) for epoch in epochs] for name in names]
    percent = [[None if share is None else 100 * share for share in row] for row in shares]
    color = {"title": {"text": "clipped [%]", "side": "right"}}
    title = "share of clipped values over the epochs, of the layers that clip any"
    return _heat(title, names, epochs, percent, percent, "%{customdata:.3g} %", _REDS, color)


def _heat(
    title: str,
    names: Sequence[str],
    epochs: Sequence[int],
    z: Sequence[Sequence[float | None]],
    shown: Sequence[Sequence[float | None]],
    form: str,
    scale: str | Sequence[Any],
    color: dict[str, Any],
) -> Plot:
    labels = [_short(name) for name in names]
    trace = {
        "type": "heatmap", "x": [str(epoch + 1) for epoch in epochs], "y": labels, "z": z, "customdata": shown,
        "colorscale": scale, "xgap": 1, "ygap": 1,
        "colorbar": {"thickness": 12, "len": 1, "lenmode": "fraction", **color},
        "hovertemplate": "%{y}, epoch %{x}: " + form + "<extra></extra>",
    }  # fmt: skip
    layout = _layout(labels)
    layout["xaxis"] = {"title": {"text": "epoch"}, "type": "category", "nticks": 20}
    return Plot(title, [trace], layout, _height(labels), size="wide")


def _layout(names: Sequence[str]) -> dict[str, Any]:
    return {
        "yaxis": {
            "range": [len(names) - 0.5, -0.5],
            "type": "category",
            "tickfont": {"size": 10},
            "tickvals": list(names),
        }
    }


def _height(names: Sequence[str]) -> int:
    return max(200, 100 + _ROW * len(names))


def _short(name: str) -> str:
    """The end of a long name, which tells layers apart."""
    return html.escape(name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}")
