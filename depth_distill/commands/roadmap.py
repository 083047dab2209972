"""The whole way from the FP32 teacher to INT8 as one table: PTQ, equalization, distillation, mixed precision.

Trains what the rows of the config need, each row in its own run folder, and scores every network after the tool chain's
own PTQ (ONNX Runtime's ``quantize_static``, per-tensor min/max, on the exported float file; FP32 as it is, and mixed
precision by fake quantization, because no tool chain here does it), on the same images by the same metrics. Writes
``roadmap.json`` after every row, and ``roadmap.md``, ``roadmap.csv`` and ``roadmap.png`` at the end. Start it again to
go on where it was interrupted. A row that cannot run says why. ``--config`` names a roadmap (see configs/roadmap);
options such as ``--data.root DIR`` override the configs of all its trainings.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from depth_distill.commands.options import CommandParser, add_config, add_json, add_out

EXAMPLE = "depth-distill roadmap --config roadmap/kitchen --data.root kitchen --out roadmap"


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_config(parser, required=True)
    parser.add_argument(
        "--teacher", type=Path, metavar="CKPT", help="checkpoint of a trained teacher, instead of training the config's"
    )
    add_out(parser)
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Train, measure, print and write."""
    from rich.table import Table

    from depth_distill.atomic import write_json
    from depth_distill.display.console import plain_console
    from depth_distill.roadmap import COLUMNS, Roadmap, cells, float_abs_rel, load_plan, write_results

    console = plain_console()
    plan = load_plan(options.config)
    plan.teacher_checkpoint = str(options.teacher) if options.teacher else plan.teacher_checkpoint
    found = Roadmap(plan, options.out, overrides, console).run()
    write_results(found, options.out)
    if options.json is not None:
        write_json(options.json, found)
    for title, network in found["networks"].items():
        table = Table(title=f"{title}: {found['protocol']}")
        table.add_column("row")
        for column in COLUMNS:
            table.add_column(column, justify="right")
        for name, results in network["rows"].items():
            table.add_row(name, *cells(results, float_abs_rel(network)))
        console.print(table)
    console.print(f"written  {options.out / 'roadmap.md'}, .csv, .json, .png", soft_wrap=True, highlight=False)
