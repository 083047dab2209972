"""What ``ptq-table`` says of its rows: lines, Markdown, a verdict and a picture."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from depth_distill.quantization.analysis.axis import ABS_REL, DRIFT, Axis, cost_of_int8, telling_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOAT, PER_CHANNEL = "FP32", "per-channel PTQ"
"""Rows for reference: the network itself, and PTQ by the profile ``per-channel``."""
COLUMNS = ("abs_rel", "x FP32", "vendor", "vendor x FP32", "drift mm", "parity", "s")


def cells(row: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The numbers of a row in words, in the order of ``COLUMNS``.

    Args:
        row: what was measured.
        measured: all rows of its network, for FP32.
    """
    exact = measured[FLOAT]["abs_rel"]
    found = [f"{row['abs_rel']:.4f}", f"{row['abs_rel'] / exact:.3f}"]
    if "vendor" not in row:
        return [*found, "", "", f"{row['drift_mm']:.2f}", "", ""]
    vendor = row["vendor"]
    found += ["-", "-"] if vendor is None else [f"{vendor:.4f}", f"{vendor / exact:.3f}"]
    found.append(f"{row['drift_mm']:.2f}")
    return [*found, f"{row['parity']:.2%}", f"{row['seconds']:.1f}"]


def verdict(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """What INT8 costs in the first row behind FP32, and which row is nearest to FP32, in a sentence."""
    (before, *behind) = (name for name in _in_int8(measured) if name != PER_CHANNEL)
    words = cost_of_int8(measured[FLOAT], measured[before])
    drift = {name: float(measured[name][DRIFT]) for name in (before, *behind)}
    nearest = min(drift, key=lambda name: drift[name])
    if nearest != before:
        return f"{words}; nearest to FP32 is {nearest}: {drift[nearest]:.1f} mm of {drift[before]:.1f}"
    return f"{words}; no further pass brings it nearer to FP32" if behind else words


def line_of(row: str, texts: Sequence[str]) -> str:
    """A line of the terminal."""
    widths = [max(10, len(name) + 2) for name in COLUMNS]
    return f"  {row:26s}" + "".join(f"{cell:>{width}s}" for cell, width in zip(texts, widths, strict=True))


def markdown(found: Mapping[str, Any]) -> str:
    """A table and a verdict of each network."""
    lines = []
    for title, network in found.items():
        lines += [f"### {title}", "", f"| step | {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * len(COLUMNS)]
        measured = network["rows"]
        lines += [f"| {step} | {' | '.join(cells(row, measured))} |" for step, row in measured.items()]
        lines += ["", *([verdict(measured)] if _in_int8(measured) else []), ""]
    return "\n".join(lines)


def picture(found: Mapping[str, Any]) -> "Figure":
    """A group of bars for each network: abs_rel over FP32, or the deviation from FP32 where abs_rel tells nothing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    ax = figure.subplots()
    shown = {title: each["rows"] for title, each in found.items() if _in_int8(each["rows"])}
    by_vendor = all(row["vendor"] is not None for rows in shown.values() for row in _in_int8(rows).values())
    drawn = "vendor" if by_vendor else ABS_REL
    first = ((rows[FLOAT], next(iter(_in_int8(rows).values()))) for rows in shown.values())
    by_abs_rel = any(telling_axis(exact, {**row, ABS_REL: row[drawn]}).metric == ABS_REL for exact, row in first)
    steps = list(dict.fromkeys(step for rows in shown.values() for step in _in_int8(rows)))
    width = 0.85 / max(1, len(steps))
    for index, step in enumerate(steps):
        at = (index - (len(steps) - 1) / 2) * width
        bars = {
            place + at: rows[step][drawn] / rows[FLOAT][ABS_REL] if by_abs_rel else rows[step][DRIFT]
            for place, rows in enumerate(shown.values())
            if step in rows
        }
        for place, height in bars.items():
            text = f" {height:.2f}" if by_abs_rel else f" {height:.1f}"
            ax.text(place, height, text, rotation=90, ha="center", va="bottom", fontsize=7)
        ax.bar(list(bars), list(bars.values()), width=0.94 * width, label=step)
    ax.set_xticks(range(len(shown)), [title.replace(", ", "\n") for title in shown], fontsize=8)
    how = "ONNX Runtime's own PTQ" if by_vendor and by_abs_rel else "simulated"
    ax.set_ylabel(f"abs_rel over FP32, {how}" if by_abs_rel else f"{Axis(DRIFT).label}, {how}")
    if by_abs_rel:
        ax.axhline(1, color="black", linewidth=0.8)
    ax.set_ylim(0.5 if by_abs_rel else 0, 1.35 * ax.get_ylim()[1])
    ax.legend(fontsize=8, ncols=3, loc="upper center")
    return figure


def _in_int8(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The rows behind FP32; none where a table was interrupted there."""
    return {step: row for step, row in measured.items() if step != FLOAT}
