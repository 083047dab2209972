"""Tables of metrics for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from depth_distill.metrics import METRIC_NAMES


def metric_table(title: str, metrics: Mapping[str, float]) -> Table:
    """One row a depth band, one column a metric.

    Args:
        title: what was evaluated, and the protocol.
        metrics: values by name: ``abs_rel`` over all pixels, ``abs_rel_<band>`` in a band.
    """
    table = Table(title=title)
    table.add_column("depth")
    for name in METRIC_NAMES:
        table.add_column(name, justify="right")
    bands = [name.removeprefix("abs_rel_") for name in metrics if name.startswith("abs_rel_")]
    for band in ["", *bands]:
        suffix = f"_{band}" if band else ""
        values = (metrics.get(f"{name}{suffix}", float("nan")) for name in METRIC_NAMES)
        table.add_row(band or "all", *(f"{value:.4f}" for value in values))
    return table
