"""Tables of metrics for the terminal."""

import math
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from depth_distill.metrics import METRIC_NAMES

_PAGE_WIDTH = 160  # characters: a file or a pipe has no width, and 80 would cut the names of layers


def wide_console() -> Console:
    """A console that is wide enough for tables of layers where it is no terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _PAGE_WIDTH)
    return console


def metric_table(title: str, metrics: Mapping[str, float]) -> Table:
    """One row a metric, one column for all depths and one for each band; a dash where no image has such pixels.

    Args:
        title: what was evaluated, and the protocol.
        metrics: values by name: ``abs_rel`` over all pixels, ``abs_rel_<band>`` in a band.
    """
    bands = [name.removeprefix("abs_rel_") for name in metrics if name.startswith("abs_rel_")]
    table = Table(title=title)
    table.add_column("metric")
    for band in ["all", *bands]:
        table.add_column(band, justify="right")
    for name in METRIC_NAMES:
        keys = [name, *(f"{name}_{band}" for band in bands)]
        table.add_row(name, *(_cell(metrics.get(key, math.nan)) for key in keys))
    return table


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
