"""Which curves a log gives, and what is in them."""

from depth_distill import metrics
from depth_distill.tracking.run_report.curves import METRIC_NAMES, band_names, curves
from depth_distill.tracking.run_report.folder import read_run
from depth_distill.tracking.run_report.judge import monitored
from tests.tracking.run_report.recorded import rows, write_log, write_run


def drawn(folder):
    run = read_run(folder)
    plots, notes = curves(run, monitored(run))
    return {plot.title: plot for plot in plots}, notes


def test_metrics_are_those_of_the_package():
    assert METRIC_NAMES == metrics.METRIC_NAMES


def test_losses_terms_rates_metrics_and_bands_have_a_plot_each(tmp_path):
    plots, notes = drawn(write_run(tmp_path / "run", vendor=[0.5, 0.4, 0.3]))
    assert list(plots) == [
        "loss", "terms of the loss", "learning rate", "gradient norm, before clipping", "abs_rel", "delta1",
        "abs_rel by depth band",
    ]  # fmt: skip
    assert [trace["name"] for trace in plots["loss"].traces] == ["train/loss", "val/loss"]
    assert [trace["name"] for trace in plots["abs_rel"].traces] == ["val", "vendor"]
    assert [trace["name"] for trace in plots["abs_rel by depth band"].traces] == ["0.5-2m", "2-5m"]
    val = plots["abs_rel"].traces[0]
    assert (val["x"], val["y"], val["customdata"]) == ([3, 7, 11], [0.4, 0.3, 0.2], [1, 2, 3])
    assert plots["abs_rel"].layout["shapes"][0]["x0"] == 11
    assert "The dotted line is the best val/abs_rel, at step 11." in notes[0]


def test_the_terms_of_a_distillation_are_in_groups(tmp_path):
    folder = write_run(tmp_path / "run")
    names = ("output", "output/log_l1", "output/gradient", "supervised", "supervised/silog")
    write_log(folder / "metrics.csv", rows([0.4, 0.3], losses=names))
    plots, _ = drawn(folder)
    assert [trace["name"] for trace in plots["terms of the loss"].traces] == ["output", "supervised (silog)"]
    assert [trace["name"] for trace in plots["terms of the loss: output"].traces] == ["gradient", "log_l1"]


def test_what_is_not_finite_is_a_gap(tmp_path):
    folder = write_run(tmp_path / "run")
    write_log(folder / "metrics.csv", [{"epoch": 0, "step": k, "train/loss": (1, "nan", 2)[k]} for k in range(3)])
    plots, _ = drawn(folder)
    assert plots["loss"].traces[0]["y"] == [1, None, 2]


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path):
    folder = write_run(tmp_path / "run")
    write_log(folder / "metrics.csv", [{"epoch": 0, "step": k, "train/loss": k} for k in range(5500)])
    plots, notes = drawn(folder)
    steps = plots["loss"].traces[0]["x"]
    assert (steps[0], steps[-1]) == (0, 5499)
    assert len(steps) <= 1101
    assert "about 1000 evenly spread points" in notes[0]


def test_curves_over_decades_have_a_log_scale(tmp_path):
    folder = write_run(tmp_path / "run")
    write_log(folder / "metrics.csv", [{"epoch": 0, "step": k, "train/grad_norm": 10.0**k} for k in range(4)])
    plots, _ = drawn(folder)
    assert plots["gradient norm, before clipping (log scale)"].layout["yaxis"] == {"type": "log"}


def test_what_a_callback_logs_has_a_plot_too(tmp_path):
    folder = write_run(tmp_path / "run")
    write_log(folder / "metrics.csv", [{"epoch": 0, "step": k, "mine/number": k} for k in range(2)])
    assert list(drawn(folder)[0]) == ["mine/number"]


def test_bands_are_in_the_order_of_depth():
    assert band_names(["val/abs_rel_10-20m", "val/abs_rel_2-5m", "vendor/abs_rel_2-5m", "val/rmse"]) == [
        "2-5m",
        "10-20m",
    ]
