"""The metric table shows every metric and band, and fits a terminal of 80 columns."""

from rich.console import Console

from depth_distill.display.tables import metric_table
from depth_distill.metrics import METRIC_NAMES


def test_every_value_is_shown_whole_in_80_columns():
    metrics = {
        f"{name}{suffix}": i + 0.1234 for suffix in ("", "_0.5-2m", "_2-5m") for i, name in enumerate(METRIC_NAMES)
    }
    console = Console(width=80)
    with console.capture() as captured:
        console.print(metric_table("val: per-image mean, depth 0.5-15 m", metrics))
    printed = captured.get()
    assert printed.count("0.1234") == 3  # abs_rel over all depths and in both bands
    for word in (*METRIC_NAMES, "all", "0.5-2m", "2-5m", "depth 0.5-15 m"):
        assert word in printed


def test_a_value_that_is_missing_or_nan_is_a_dash():
    table = metric_table("t", {"abs_rel": 0.5, "rmse": float("nan")})
    cells = dict(zip(*(column.cells for column in table.columns), strict=True))
    assert cells["abs_rel"] == "0.5000"
    assert cells["rmse"] == cells["silog"] == "-"
