"""Post-training quantization step by step: what each pass of a recipe gains, by us and by ONNX Runtime.

The rows are FP32; naive PTQ; equalization; bias correction behind it; rounding reconstruction between the two; and
per-channel PTQ for reference. ``--recipe`` names the passes that every row starts with; seconds are those of all passes
of a row, without calibration. Each row has abs_rel of this package's fake quantization and abs_rel after vendor PTQ:
ONNX Runtime's own ``quantize_static`` on the float ONNX file of that row, in the formats of the target; ``-`` where it
cannot stand for the target. Writes ``ptq_table.json``, ``ptq_table.md``
and ``ptq_table.png``; a row that was measured with the same settings is kept. Without ``--config``, the config in each
checkpoint's run folder is used; any key of it can be overridden, as in ``fit``.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depth_distill.commands.options import (
    CommandParser,
    add_calibration_images,
    add_checkpoint,
    add_config,
    add_device,
    add_head,
    add_images,
    add_json,
    add_out,
    add_recipe,
    add_target,
    add_wandb,
)
from depth_distill.commands.ptq_report import COLUMNS, cells, line_of, markdown, picture, verdict
from depth_distill.commands.values import whole_number
from depth_distill.errors import ConfigError
from depth_distill.quantization.target.target import load_target
from depth_distill.runs import require_checkpoint, title_of

_SCHEME = 2  # counts up where the same settings give other numbers
EXAMPLE = "depth-distill ptq-table --checkpoint A.ckpt B.ckpt --out ptq"


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_checkpoint(parser, several=True)
    add_config(parser)
    add_target(parser)
    add_recipe(parser, default="naive")
    add_head(parser)
    add_images(parser)
    add_calibration_images(parser)
    parser.add_argument(
        "--reconstruction-images",
        type=whole_number,
        default=64,
        metavar="N",
        help="correct biases and reconstruct rounding on this many of the calibration images",
    )
    add_device(parser)
    add_out(parser)
    add_wandb(parser)
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Measure what is missing, print and write."""
    from depth_distill.atomic import atomic_path, write_json
    from depth_distill.commands.analysis import show_notes
    from depth_distill.commands.ptq_rows import PtqRows
    from depth_distill.display.console import plain_console
    from depth_distill.display.pictures import save_figure
    from depth_distill.export.bundle.steps import content_hash
    from depth_distill.hashes import sha256
    from depth_distill.loading.trained import config_of, load_run
    from depth_distill.quantization.head import with_head
    from depth_distill.quantization.recipe import NAIVE, load_recipe

    console = plain_console()
    base = with_head(load_recipe(options.recipe), options.head)
    file = options.out / "ptq_table.json"
    found = _measured(file)
    behind = "" if base == NAIVE else f", {base}"
    networks = {name + behind: checkpoint for name, checkpoint in _names(options.checkpoint).items()}
    for title, checkpoint in networks.items():
        made_with = {
            "checkpoint": sha256(checkpoint),
            "config": sha256(config_of(checkpoint, options.config)),
            "target": content_hash(load_target(options.target).to_dict()),
            "images": options.images,
            "calibration_images": options.calibration_images,
            "overrides": list(overrides),
            "scheme": _SCHEME,
        }
        run = load_run(checkpoint, options.config, overrides, options.device)
        show_notes(run)
        made_with["resize"] = run.data.resize
        with tempfile.TemporaryDirectory() as folder:
            rows = PtqRows(run, base, options, Path(folder))
            network = found.setdefault(title, {"rows": {}})
            network["protocol"] = rows.evaluator.protocol
            console.print(title, highlight=False, soft_wrap=True)
            console.print(line_of("", COLUMNS), highlight=False, soft_wrap=True)
            for row, recipe in rows.recipes.items():
                key = {**made_with, "recipe": recipe.sha256}
                if network["rows"].get(row, {}).get("made_with") != key:
                    network["rows"][row] = rows.measure(row) | {"made_with": key}
                text = line_of(row, cells(network["rows"][row], network["rows"]))
                console.print(text, highlight=False, soft_wrap=True)
                write_json(file, found)
            network["rows"] = {row: network["rows"][row] for row in rows.recipes}
            console.print(verdict(network["rows"]), highlight=False, soft_wrap=True)
            write_json(file, found)
    with atomic_path(options.out / "ptq_table.md") as temporary:
        temporary.write_text(markdown(found))
    save_figure(picture(found), options.out / "ptq_table.png")
    if options.json is not None:
        write_json(options.json, found)
    console.print(f"written  {file}", soft_wrap=True, highlight=False)
    if options.wandb == "true":
        for title, checkpoint in networks.items():
            _track(options, checkpoint, title, found[title]["rows"])


def _track(options: argparse.Namespace, checkpoint: Path, title: str, measured: dict[str, dict[str, Any]]) -> None:
    """Log the rows of a network to Weights & Biases, as a run that uses its checkpoint."""
    from rich.table import Table

    from depth_distill.tracking.analyses import track

    table = Table("step", *COLUMNS, title=title)
    for step, row in measured.items():
        table.add_row(step, *cells(row, measured))
    names = ("abs_rel", "vendor", "drift_mm")
    numbers = {f"{step}/{name}": row[name] for step, row in measured.items() for name in names if row.get(name)}
    keys = ("target", "recipe", "head", "images", "calibration_images", "reconstruction_images")
    config = {"checkpoint": str(checkpoint)} | {key: str(getattr(options, key)) for key in keys}
    picture = options.out / "ptq_table.png"
    track("ptq-table", options.out, checkpoint, config, numbers, {"ptq_table": table}, [picture])


def _names(checkpoints: Sequence[Path]) -> dict[str, Path]:
    """Checkpoints by the name of their run folder; of one folder, also by their own."""
    for checkpoint in checkpoints:
        require_checkpoint(str(checkpoint))
    runs = Counter(title_of(each) for each in checkpoints)
    named: dict[str, Path] = {}
    for each in checkpoints:
        run = title_of(each)
        name = run if runs[run] == 1 else f"{run}, {each.stem}"
        if name in named:
            raise ConfigError(f"--checkpoint: {named[name]} and {each} would share the rows of {name!r}: measure one")
        named[name] = each
    return named


def _measured(file: Path) -> dict[str, Any]:
    """The rows of an earlier run, by network."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        for network in found.values():
            for row in network["rows"].values():
                cells(row, network["rows"])
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise ConfigError(f"{file} is no table of ptq-table: move it away, or give another --out") from error
    return dict(found)
