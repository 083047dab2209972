"""Which layers of a trained network lose accuracy in INT8: each alone, and all but each, ranked.

Writes ``sensitivity.json`` and ``sensitivity.png``. Interrupted, it goes on where it stopped. ``--fast`` ranks layers
by the noise in their own output, in one pass, and says how well that agrees with the exact ranking on the first batch.
Without ``--config``, the config in the checkpoint's run folder is used; any key of it can be overridden, as in ``fit``.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depth_distill.commands.options import CommandParser, add_analysis

if TYPE_CHECKING:
    from rich.table import Table

    from depth_distill.commands.analysis import QuantizedRun
    from depth_distill.quantization.analysis.sensitivity import FastSensitivity

EXAMPLE = "depth-distill sensitivity --checkpoint runs/NAME/TIME/checkpoints/last.ckpt --out sensitivity"


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_analysis(parser)
    parser.add_argument("--fast", action="store_true", help="rank by SQNR of each layer's output, in one pass")


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Measure, print and write."""
    from depth_distill.commands import analysis

    quantized = analysis.quantize_run(options, overrides)
    name, table = (_fast if options.fast else _exact)(quantized, options.out, options.json)
    analysis.track(options, "sensitivity", table, name, {})


def _exact(quantized: "QuantizedRun", out: Path, json_file: Path | None) -> tuple[str, "Table"]:
    from depth_distill.commands import analysis
    from depth_distill.display.charts import paired_bars
    from depth_distill.quantization.analysis.sensitivity import sensitivity

    unfinished = out / "unfinished"
    found = sensitivity(quantized.quantized, quantized.scorer, resume=unfinished)
    title, label = f"Sensitivity: {quantized.title}", found.axis.label
    figure = paired_bars(
        [each.name for each in found.layers],
        (f"{label}: increase with only it in INT8", [each.degradation for each in found.layers]),
        (f"{label}: decrease with only it in float", [each.recovery for each in found.layers]),
        f"{title}\n{found.verdict}",
    )
    bands = [f"{near:g}-{far:g}m" for near, far in quantized.scorer.evaluator.metrics.bands_m]
    values = {"title": quantized.title, "protocol": quantized.protocol, **found.to_dict()}
    table = found.table(title, bands)
    analysis.report(out, "sensitivity", values, table, figure, json_file)
    shutil.rmtree(unfinished)
    return "sensitivity", table


def _fast(quantized: "QuantizedRun", out: Path, json_file: Path | None) -> tuple[str, "Table"]:
    from depth_distill.commands import analysis
    from depth_distill.display.charts import paired_bars
    from depth_distill.quantization.analysis.sensitivity import fast_sensitivity

    found = fast_sensitivity(quantized.quantized, quantized.scorer)
    title = f"SQNR of each layer's own output: {quantized.title}"
    names, values = list(found.sqnr_db), list(found.sqnr_db.values())
    figure = paired_bars(names, ("SQNR [dB]", values), ("rank", list(range(1, len(names) + 1))), title)
    record = {"title": quantized.title, **vars(found)}
    table = _fast_table(title, found)
    analysis.report(out, "sensitivity_fast", record, table, figure, json_file)
    return "sensitivity_fast", table


def _fast_table(title: str, found: "FastSensitivity") -> "Table":
    from rich.table import Table

    table = Table(title=title, min_width=78)
    table.add_column("layer")
    table.add_column("SQNR [dB]", justify="right")
    for name, value in found.sqnr_db.items():
        table.add_row(name, f"{value:.1f}")
    table.caption = (
        f"against the exact ranking on {found.images} images: rank correlation {found.agreement:.2f}, "
        f"{found.top} of the 5 most sensitive layers are among the first 5 here"
    )
    return table
