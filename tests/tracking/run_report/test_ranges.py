"""Ranges of layers that are known."""

from depth_distill.tracking.run_report.folder import read_run
from depth_distill.tracking.run_report.ranges import ranges
from tests.tracking.run_report.recorded import write_layers, write_run


def drawn(tmp_path, **options):
    folder = write_run(tmp_path / "run")
    write_layers(folder, **options)
    return ranges(read_run(folder).layers)


def test_bars_ends_and_heat_maps(tmp_path):
    layers = [
        ("stem", "activation", -1.0, 2.0, -1.5, 1.5, 0.25),
        ("stem.weight", "weight", -9.0, 9.0, -9.0, 9.0, 0.0),
        ("head", "output", 0.0, 1.0, 0.0, 1.0, 0.0),
    ]
    plots, lines = drawn(tmp_path, epochs=(4, 9), layers=layers)
    assert [plot.title for plot in plots] == [
        "range of each layer after epoch 10", "largest absolute value over the epochs",
        "share of clipped values over the epochs, of the layers that clip any",
    ]  # fmt: skip
    bars, ends = plots[0].traces
    assert (bars["y"], bars["base"], bars["x"]) == (["stem", "head"], [-1.0, 0.0], [3.0, 1.0])
    assert ends["x"] == [-1.5, 1.5, 0.0, 1.0]
    clipped = plots[2].traces[0]
    assert (clipped["x"], clipped["y"], clipped["z"]) == (["5", "10"], ["stem"], [[25.0, 25.0]])
    assert "1 of 3 quantizers clip values; most, 25.00% of them, stem." in lines[0]
    assert "1 weights that are not clipped are in layers.csv" in lines[1]


def test_a_float_run_has_ranges_and_no_ends(tmp_path):
    plots, lines = drawn(tmp_path, epochs=(0,), layers=[("stem", "float", -1.0, 2.0, "", "", "")])
    assert [len(plot.traces) for plot in plots] == [1]  # one epoch is no heat map
    assert "trains in float" in lines[0]


def test_of_many_layers_those_that_saturate_most_are_drawn_in_the_order_of_the_network(tmp_path):
    layers = [(f"layer{k:03}", "activation", -1.0, 1.0, -1.0, 1.0, k / 1000) for k in range(120)]
    plots, lines = drawn(tmp_path, layers=layers)
    assert plots[0].traces[0]["y"] == [f"layer{k:03}" for k in range(70, 120)]
    assert "Drawn are 50" in lines[1]
    assert "70 other layers" in lines[1]


def test_a_range_that_is_not_finite_is_named(tmp_path):
    layers = [("stem", "float", "nan", "nan", "", "", ""), ("head", "float", 0, 1, "", "", "")]
    plots, lines = drawn(tmp_path, epochs=(0,), layers=layers)
    assert plots[0].traces[0]["y"] == ["head"]
    assert "Ranges of 1 layers are not finite, and left out: stem." in lines


def test_nothing_measured_is_nothing_drawn():
    assert ranges(()) == ([], [])
