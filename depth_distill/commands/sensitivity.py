"""Which layers of a trained network lose accuracy in INT8: each alone, and all but each, ranked.

    depth-distill sensitivity --checkpoint runs/teacher-resnet18/<time>/checkpoints/last.ckpt --out sensitivity

Writes ``sensitivity.json`` and ``sensitivity.png``. Interrupted, it goes on where it stopped. ``--fast`` ranks layers
by the noise in their own output, in one pass, and says how well that agrees with the exact ranking on the first batch.
Options that are not listed override the config of the run.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from depth_distill.commands import analysis
from depth_distill.display.charts import paired_bars
from depth_distill.exit_codes import exit_code
from depth_distill.quantization.analysis.sensitivity import FastSensitivity, fast_sensitivity, sensitivity


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    analysis.add_arguments(parser)
    parser.add_argument("--fast", action="store_true", help="rank by SQNR of each layer's output, in one pass")
    options, overrides = parser.parse_known_args(args)

    def work() -> None:
        run = analysis.quantize_run(options, overrides)
        (_fast if options.fast else _exact)(run, options.out)

    return exit_code(work)


def _exact(run: analysis.QuantizedRun, out: Path) -> None:
    unfinished = out / "unfinished"
    found = sensitivity(run.quantized, run.evaluator, resume=unfinished)
    title = f"Sensitivity: {run.title}"
    figure = paired_bars(
        [each.name for each in found.layers],
        ("increase of abs_rel with only it in INT8", [each.degradation for each in found.layers]),
        ("decrease of abs_rel with only it in float", [each.recovery for each in found.layers]),
        title,
    )
    bands = [f"{near:g}-{far:g}m" for near, far in run.evaluator.metrics.bands_m]
    values = {"title": run.title, "protocol": run.evaluator.protocol, **found.to_dict()}
    analysis.report(out, "sensitivity", values, found.table(title, bands), figure)
    shutil.rmtree(unfinished)


def _fast(run: analysis.QuantizedRun, out: Path) -> None:
    found = fast_sensitivity(run.quantized, run.evaluator)
    title = f"SQNR of each layer's own output: {run.title}"
    names, values = list(found.sqnr_db), list(found.sqnr_db.values())
    figure = paired_bars(names, ("SQNR [dB]", values), ("rank", list(range(1, len(names) + 1))), title)
    record = {"title": run.title, **vars(found)}
    analysis.report(out, "sensitivity_fast", record, _fast_table(title, found), figure)


def _fast_table(title: str, found: FastSensitivity) -> Table:
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


if __name__ == "__main__":
    sys.exit(main())
