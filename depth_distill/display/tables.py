"""Tables of metrics for the terminal."""

import math
from collections.abc import Mapping

from rich.table import Table

from depth_distill.metrics import METRIC_NAMES


def metric_table(title: str, metrics: Mapping[str, float]) -> Table:
    """One row per metric, one column for all depths and one per band; a dash if no image has such pixels.

    Args:
        title: title with the evaluated split and the protocol.
        metrics: values by name: ``abs_rel`` over all pixels, ``abs_rel_<band>`` within a band.
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
