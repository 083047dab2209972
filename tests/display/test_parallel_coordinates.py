"""Parallel coordinates: where lines and labels are, and which line is the best."""

import pytest

from depth_distill.display.parallel_coordinates import Axis, parallel_coordinates


def labels(ax, index):
    return {text.get_text(): text.xy[1] for text in ax.texts if text.xy[0] == index}


def test_a_few_numbers_are_labelled_as_they_are_and_many_by_a_scale():
    few, many = Axis("few", [16, 64, 64, 16, 16, 64, 64]), Axis("many", [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0])
    (ax,) = parallel_coordinates([few, many], "mm", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], False, "t").axes
    assert labels(ax, 0) == {"16": 0.0, "64": 1.0}
    assert labels(ax, 1) == {"0": 0.0, "2": 0.25, "4": 0.5, "6": 0.75, "8": 1.0}


def test_a_logarithmic_axis_is_spread_by_the_logarithm():
    (ax,) = parallel_coordinates([Axis("lr", [1e-5, 1e-4, 1e-3], True)], "mm", [1.0, 2.0, 3.0], False, "t").axes
    assert labels(ax, 0) == pytest.approx({"1e-05": 0.0, "0.0001": 0.5, "0.001": 1.0})


@pytest.mark.parametrize(("maximize", "best"), [(False, 0), (True, 2)])
def test_the_best_line_is_thick_dark_and_on_top(maximize, best):
    values = [1.0, 2.0, 3.0]
    (ax,) = parallel_coordinates([Axis("n", [1, 2, 3])], "metric", values, maximize, "t").axes
    lines = [line for line in ax.lines if line.get_linewidth() > 1]
    top = lines[-1]
    assert top.get_linewidth() == 3.0
    assert top.get_ydata()[1] == best / 2  # on the axis of the metric
    assert sum(top.get_color()[:3]) == min(sum(line.get_color()[:3]) for line in lines)


def test_choices_have_a_height_each_and_long_ones_are_shortened():
    recipe = Axis("recipe", ["naive", "[fold, equalize, split_weights, bias_correct]", "naive"])
    (ax,) = parallel_coordinates([recipe], "mm", [3.0, 1.0, 2.0], False, "t").axes
    found = labels(ax, 0)
    assert found["naive"] == 0.75
    assert found["[fold, equalize, split_weights, bi …"] == 0.25


def test_of_labels_that_would_cover_each_other_one_is_drawn():
    (ax,) = parallel_coordinates([Axis("n", [1, 2, 3])], "mm", [31.71, 31.97, 49.85], False, "t").axes
    assert list(labels(ax, 1)) == ["31.7", "49.9"]
