"""The whole way from the FP32 teacher to INT8 as one table: PTQ, equalization, distillation, mixed precision.

    depth-distill roadmap --config configs/roadmap/kitchen.yaml --out roadmap --data.root DIR

Trains what the rows of the config need, a run folder each, and scores every network after the tool chain's own PTQ
(ONNX Runtime's ``quantize_static``, per-tensor min/max, on the exported float file; FP32 as it is, and mixed precision
by fake quantization, because no tool chain here does it), on the same images by the same
metrics. Writes ``roadmap.json`` after every row, and ``roadmap.md``, ``roadmap.csv`` and ``roadmap.png``. Start it
again to go on where it was interrupted. A row that cannot run says why. Options that are not listed override every
``fit``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from depth_distill.exit_codes import exit_code
from depth_distill.roadmap import COLUMNS, Roadmap, cells, float_abs_rel, load_plan, write_results


def main(args: Sequence[str] | None = None) -> int:
    """Train, measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="a roadmap, see configs/roadmap")
    parser.add_argument("--teacher", type=Path, help="checkpoint of a trained teacher, in place of the config's")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    options, overrides = parser.parse_known_args(args)

    def work() -> None:
        console = Console()
        plan = load_plan(options.config)
        plan.teacher_checkpoint = str(options.teacher) if options.teacher else plan.teacher_checkpoint
        found = Roadmap(plan, options.out, overrides, console).run()
        write_results(found, options.out)
        for title, network in found["networks"].items():
            table = Table(title=f"{title}: {found['protocol']}")
            table.add_column("row")
            for column in COLUMNS:
                table.add_column(column, justify="right")
            for name, results in network["rows"].items():
                table.add_row(name, *cells(results, float_abs_rel(network)))
            console.print(table)
        console.print(f"written  {options.out / 'roadmap.md'}, .csv, .json, .png", soft_wrap=True, highlight=False)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
