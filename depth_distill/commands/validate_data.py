"""Read every sample of every split of a config, and print counts, sizes, depth ranges and the bad files.

The exit code is 1 if ``fit`` would fail, or would learn nothing from a sample. Every key of the config can be
overridden, as in ``fit``; ``--data.num_workers`` is the number of processes that read. After Ctrl-C, what was found
until then is printed, and the exit code is 130.
"""

import argparse
from collections.abc import Sequence

from depth_distill.commands.lightning import WHOLE_BLOCKS, add_unlisted
from depth_distill.commands.options import CommandParser, add_config, add_json

EXAMPLE = "depth-distill validate-data --config teacher/resnet18 --data.root my_data"


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_config(parser, several=True)
    add_json(parser)
    # A command line of fit will do.
    add_unlisted(
        parser, *WHOLE_BLOCKS, "seed_everything", "run_dir", "runs_dir", "wandb", "tf32", "ckpt_path", "weights_only"
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Read, print and write."""
    from dataclasses import asdict

    from depth_distill.atomic import write_json
    from depth_distill.data import report_table, validate_dataset
    from depth_distill.data.validation import DatasetReport
    from depth_distill.display.console import plain_console
    from depth_distill.display.progress import counting
    from depth_distill.lightning_cli import DataCLI, build_cli

    datamodule = build_cli(DataCLI, options.words[1:], run=False).datamodule
    splits = {name: getattr(datamodule, name) for name in ("train", "val", "test", "predict", "calibration")}
    unique = {name: data for i, (name, data) in enumerate(splits.items()) if data not in list(splits.values())[:i]}
    reports: dict[str, DatasetReport] = {}
    for name, dataset in unique.items():
        if dataset is None or not all(report.complete for report in reports.values()):
            continue
        with counting(name, len(dataset), plain_console()) as count:
            reports[name] = validate_dataset(dataset, datamodule.depth_range, count, workers=datamodule.num_workers)
    plain_console().print(report_table(reports))
    sizes = {name: [(height, width) for width, height in report.sizes] for name, report in reports.items()}
    for note in datamodule.resize_notes(sizes):
        plain_console().print(note, soft_wrap=True, highlight=False)
    if options.json is not None:
        write_json(options.json, {name: _plain(asdict(report)) for name, report in reports.items()})
    if not all(report.complete for report in reports.values()):
        raise KeyboardInterrupt
    return int(not all(report.usable for report in reports.values()))


def _plain(report: dict[str, object]) -> dict[str, object]:
    """A report with the sizes of images as text: a key of JSON is no pair."""
    sizes = report["sizes"]
    assert isinstance(sizes, dict)
    return report | {"sizes": {f"{width}x{height}": count for (width, height), count in sizes.items()}}
