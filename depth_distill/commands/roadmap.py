"""The whole way from the FP32 teacher to INT8 as one table: PTQ, equalization, distillation, mixed precision.

Trains what the rows of the config need, each row in its own run folder, and scores every network after the tool chain's
own PTQ (ONNX Runtime's ``quantize_static``, per-tensor min/max, on the exported float file; FP32 as it is, and mixed
precision by fake quantization, because no tool chain here does it), on the same images by the same metrics. With
``substituting`` in the config, also after one that computes something else in place of an operator. Writes
``roadmap.json`` after every row, and ``roadmap.md``, ``roadmap.csv`` and ``roadmap.png`` at the end. Start it again to
go on where it was interrupted. A row that cannot run says why. ``--config`` names a roadmap (see configs/roadmap);
options such as ``--data.root DIR`` override the configs of all its trainings.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from depth_distill.commands.options import CommandParser, add_config, add_json, add_out
from depth_distill.errors import ConfigError

if TYPE_CHECKING:
    from depth_distill.roadmap import Plan

EXAMPLE = "depth-distill roadmap --config roadmap/kitchen --data.root kitchen --out roadmap"


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_config(parser, required=True)
    parser.add_argument(
        "--teacher",
        nargs="+",
        metavar="CKPT",
        default=[],
        help="checkpoint of a trained teacher, instead of training the config's; NAME=CKPT of each where a roadmap has "
        "several",
    )
    add_out(parser)
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Train, measure, print and write."""
    from rich.table import Table

    from depth_distill.atomic import write_json
    from depth_distill.display.console import plain_console
    from depth_distill.roadmap import Roadmap, columns, load_plan, rows, write_results

    console = plain_console()
    plan = load_plan(options.config)
    _use_teachers(plan, options.teacher)
    found = Roadmap(plan, options.out, overrides, console).run()
    write_results(found, options.out)
    if options.json is not None:
        write_json(options.json, found)
    for title in found["networks"]:
        table = Table(title=f"{title}: {found['protocol']}")
        table.add_column("row")
        for column in columns(found):
            table.add_column(column, justify="right")
        for name, cells in rows(found, title).items():
            table.add_row(name, *cells)
        console.print(table)
    console.print(f"written  {options.out / 'roadmap.md'}, .csv, .json, .png", soft_wrap=True, highlight=False)


def _use_teachers(plan: "Plan", given: Sequence[str]) -> None:
    """Put checkpoints of the command line into a plan."""
    if not plan.teachers:
        if len(given) > 1:
            raise ConfigError(f"--teacher: received {len(given)} checkpoints, but this roadmap has one teacher")
        plan.teacher_checkpoint = given[0] if given else plan.teacher_checkpoint
        return
    for each in given:
        name, equals, checkpoint = each.partition("=")
        if not equals or name not in plan.teachers:
            raise ConfigError(f"--teacher {each}: expected NAME=CKPT with one of {', '.join(plan.teachers)}")
        plan.teacher_checkpoints[name] = checkpoint
