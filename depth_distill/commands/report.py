"""One HTML page about a run: verdict, curves, metrics, panels, ranges of layers, config, and what to do next.

RUN is a run folder, of fit, validate, test or predict, also by a link such as ``runs/NAME/latest``; or the folder of a
sweep or of a roadmap. A run that is still going on, was cut short or diverged has a page too, which says so. The page
is one file that fetches nothing, so it can be sent and kept; plots are interactive. It needs the packages of the extra
``report``: ``pip install 'depth-distill[report]'``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from depth_distill.commands.options import CommandParser
from depth_distill.commands.values import output_file
from depth_distill.runs import REPORT_FILE, ROADMAP_FILE, SWEEP_FILE

EXAMPLE = """
depth-distill report runs/NAME/latest
depth-distill report runs/NAME/test/TIME --out test.html
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run folder, or that of a sweep or roadmap")
    parser.add_argument(
        "--out",
        dest="page_out",
        type=output_file,
        metavar="FILE",
        help=f"where the page goes (default: {REPORT_FILE} in RUN)",
    )


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Read, judge, draw, write and say the verdict."""
    from depth_distill.display.console import wide_console
    from depth_distill.errors import ConfigError
    from depth_distill.tracking.run_report.page import Page, require_packages, write_page

    if overrides:
        raise ConfigError(f"report takes no keys of a config: leave out {overrides[0]}")
    require_packages()
    folder: Path = options.folder
    page: Page
    if (folder / SWEEP_FILE).is_file():
        from depth_distill.sweep.page import sweep_page

        page = sweep_page(folder)
    elif (folder / ROADMAP_FILE).is_file():
        from depth_distill.roadmap.page import roadmap_page

        page = roadmap_page(folder)
    else:
        from depth_distill.tracking.run_report.folder import read_run
        from depth_distill.tracking.run_report.run_page import run_page

        page = run_page(read_run(folder))
    out = options.page_out or output_file(str(folder / REPORT_FILE))
    write_page(page, out)
    console = wide_console()
    for line in (*page.verdict, *(f"note     {warning}" for warning in page.warnings), f"written  {out}"):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0
