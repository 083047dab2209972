"""Step and error of every codec at 8 bits, as a function of depth.

    python tools/benchmarks/codec_table.py --out benchmarks/codecs

The step is the distance between the two nearest depths that 8-bit codes can represent. The worst error is half a step;
for ``sum`` it includes the rounding of the integer code. Both are computed; the last columns are measured: depths
throughout the range are encoded, rounded to 8 bits and decoded, once with exact codes, and once with an integer code
that is off by up to ``--jitter`` metres, as in a trained network; the error is then relative to the same codes before
rounding. Carries are wrong whole parts, and not included in the error. Writes ``codec_table.json``, ``codec_table.md``
and ``codec_table.png``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from depth_distill.atomic import atomic_path, write_json
from depth_distill.codecs import (
    DepthRange,
    HostCodec,
    HostIntegerFractional,
    HostPair,
    HostSingle,
    HostThermometer,
    TwoPartCodec,
)
from depth_distill.display.console import plain_console
from depth_distill.display.pictures import save_figure
from depth_distill.exit_codes import exit_code

SAMPLES = 200_000


def codecs_of(depth_range: DepthRange) -> list[HostCodec]:
    """Every kind of codec, in the order of the table."""
    return [
        HostSingle(depth_range, "linear"),
        HostSingle(depth_range, "inverse"),
        HostSingle(depth_range, "log"),
        HostIntegerFractional(depth_range, "sum", "floor"),
        HostIntegerFractional(depth_range, "round", "floor"),
        HostIntegerFractional(depth_range, "unwrap", "floor"),
        HostIntegerFractional(depth_range, "unwrap", "coarse"),
        HostIntegerFractional(depth_range, "round", "floor", "triangle"),
        HostIntegerFractional(depth_range, "unwrap", "coarse", "triangle"),
        *(HostThermometer(depth_range, encoding, 8) for encoding in ("linear", "inverse", "log")),
        HostThermometer(depth_range, "log", 16),
        HostThermometer(depth_range, "log", 8, "logit"),
        HostThermometer(depth_range, "log", 16, "logit"),
        HostPair(depth_range, "linear", spacing="metres"),
        HostPair(depth_range, "inverse"),
        HostPair(depth_range, "log"),
        HostPair(depth_range, "log", spacing="logit"),
    ]


def rounding(codec: HostCodec, jitter_m: float = 0.0) -> dict[str, float]:
    """Largest and mean error in mm of rounding to 8 bits without carry errors; share and largest error of these."""
    generator = np.random.default_rng(0)
    depth_m = np.linspace(codec.near_m, codec.far_m, SAMPLES, dtype=np.float32).reshape(1, 1, -1)
    codes = codec.encode(depth_m)
    wrong = np.zeros(depth_m.shape, bool)
    steps = _whole_metres(codec)
    if steps and jitter_m:
        offset = generator.uniform(-jitter_m, jitter_m, depth_m.size) / steps
        codes[0, 0] = np.clip(codes[0, 0] + offset, 0, 1)
        depth_m = codec.decode(codes)
    rounded = np.rint(codes * 255) / np.float32(255)
    if isinstance(codec, TwoPartCodec):
        wrong = codec.carry_errors(rounded, depth_m)
    error_mm = 1000 * np.abs(codec.decode(rounded) - depth_m)
    return {
        "max_mm": float(error_mm[~wrong].max()),
        "mean_mm": float(error_mm[~wrong].mean()),
        "carries": float(wrong.mean()),
        "carry_mm": float(error_mm[wrong].max(initial=0)),
    }


def measure(codec: HostCodec, depths_m: Sequence[float], jitter_m: float) -> dict[str, Any]:
    """A row of the table."""
    at = np.asarray(depths_m)
    return {
        "codec": str(codec),
        "codes": codec.channels,
        "step_mm": codec.step_mm(at).tolist(),
        "worst_mm": codec.worst_error_mm(at).tolist(),
        "exact": rounding(codec),
        "jittered": rounding(codec, jitter_m) if _whole_metres(codec) else None,
    }


def _whole_metres(codec: HostCodec) -> int:
    """By how many metres the integer code goes from 0 to 1; 0 where it does not count metres."""
    if isinstance(codec, HostPair):
        return codec.num_clips - 1 if codec.spacing == "metres" else 0
    return codec.metres if isinstance(codec, HostIntegerFractional) else 0


def main(args: Sequence[str] | None = None) -> int:
    """Compute, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--range-m", type=float, nargs=2, default=(0.5, 15.0), metavar=("NEAR", "FAR"))
    parser.add_argument("--depths-m", type=float, nargs="+", default=(1.0, 2.0, 5.0, 10.0), help="columns of the table")
    parser.add_argument("--jitter", type=float, default=0.2, help="largest error of integer codes, in metres")
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON, Markdown and picture")
    options = parser.parse_args(args)
    return exit_code(lambda: _work(options, plain_console()))


def _work(options: argparse.Namespace, console: Console) -> None:
    codecs = codecs_of(DepthRange(*options.range_m))
    rows = [measure(codec, options.depths_m, options.jitter) for codec in codecs]
    values = {"range_m": list(options.range_m), "depths_m": list(options.depths_m), "jitter_m": options.jitter}
    text = markdown(rows, options.depths_m, options.jitter)
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    write_json(options.out / "codec_table.json", {**values, "rows": rows})
    with atomic_path(options.out / "codec_table.md") as temporary:
        temporary.write_text(text)
    save_figure(_picture(codecs), options.out / "codec_table.png")
    console.print(f"written  {options.out / 'codec_table'}.json, .md and .png", soft_wrap=True, highlight=False)


def markdown(rows: Sequence[dict[str, Any]], depths_m: Sequence[float], jitter_m: float) -> str:
    """The table."""
    depths = [f"step at {depth:g} m [mm]" for depth in depths_m]
    columns = [
        "codes",
        *depths,
        "worst error there [mm]",
        "measured [mm]: exact codes",
        f"integer off by {jitter_m:g} m",
    ]
    lines = ["| codec | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for row in rows:
        worst = sorted({f"{value:.3g}" for value in (min(row["worst_mm"]), max(row["worst_mm"]))}, key=float)
        cells = [str(row["codes"]), *(f"{step:.3g}" for step in row["step_mm"]), "+-" + " to ".join(worst)]
        cells += [_errors(row["exact"]), _errors(row["jittered"])]
        lines.append(f"| {row['codec']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _errors(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    carries = f"; {found['carries']:.2%} carries, up to {found['carry_mm']:.0f}" if found["carries"] else ""
    return f"{found['max_mm']:.3g}{carries}"


def _picture(codecs: Sequence[HostCodec]) -> Figure:
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    ax = figure.subplots()
    depth_m = np.linspace(codecs[0].near_m, codecs[0].far_m, 2000)[1:-1]
    styles = {HostSingle: "-", HostIntegerFractional: "--", HostThermometer: "-.", HostPair: ":"}
    drawn: set[tuple[float, ...]] = set()
    for codec in codecs:
        step_mm = codec.step_mm(depth_m)
        if tuple(step_mm[::500]) in drawn:  # decoders of the same codes have the same step
            continue
        drawn.add(tuple(step_mm[::500]))
        ax.plot(depth_m, step_mm, linestyle=styles[type(codec)], label=str(codec))
    ax.set_yscale("log")
    ax.set_xlabel("depth [m]")
    ax.set_ylabel("step at 8 bits [mm]")
    ax.grid(alpha=0.3, which="both")
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


if __name__ == "__main__":
    sys.exit(main())
