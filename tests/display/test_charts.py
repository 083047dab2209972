"""Charts: the given numbers are drawn, in order."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from depth_distill.display.charts import before_after_bars, drift_bars, paired_bars, size_curve
from depth_distill.display.pictures import save_figure


def widths(ax):
    return [bar.get_width() for bar in ax.patches]


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_bars_stand_in_two_panels_the_first_name_on_top(tmp_path):
    figure = paired_bars(["a", "b", "c"], ("left", [0.3, 0.2, -0.1]), ("right", [1, 2, 3]), "a title")
    one, two = figure.axes
    assert widths(one) == [0.3, 0.2, -0.1]
    assert widths(two) == [1, 2, 3]
    assert [label.get_text() for label in one.get_yticklabels()] == ["a", "b", "c"]
    bottom, top = one.get_ylim()
    assert bottom > top  # rows count downwards
    assert (one.get_xlabel(), two.get_xlabel()) == ("left", "right")
    assert figure.get_suptitle() == "a title"
    assert one.get_legend() is None
    path = tmp_path / "bars.png"
    save_figure(figure, path)
    with Image.open(path) as picture:
        assert picture.width == 11 * 90


def test_every_vertical_line_is_drawn():
    lines = [("float", 0.1, "0.1 mm"), ("INT8", 0.2, "0.2 mm"), ("mixed", 0.3, "0.3 mm")]
    one, _ = paired_bars(["a"], ("", [1]), ("", [1]), "", lines).axes
    assert labels(one) == ["float 0.1 mm", "INT8 0.2 mm", "mixed 0.3 mm"]


def test_more_names_make_a_taller_picture():
    heights = [
        paired_bars([str(i) for i in range(count)], ("", [0] * count), ("", [0] * count), "").get_figheight()
        for count in (2, 60)
    ]
    assert heights[1] - heights[0] == pytest.approx(58 * 0.22)


def test_lines_are_in_both_panels_and_named_once():
    figure = paired_bars(["a"], ("l", [0.1]), ("r", [0.2]), "t", [("FP32", 0.05, "0.0500"), ("INT8", 0.25, "0.2500")])
    for ax in figure.axes:
        assert [line.get_xdata()[0] for line in ax.lines] == [0, 0.05, 0.25]
    assert labels(figure.axes[0]) == ["FP32 0.0500", "INT8 0.2500"]


def test_the_curve_of_size_and_accuracy(tmp_path):
    points = [(1.0, 0.11), (1.5, 0.06), (2.0, 0.04)]
    figure = size_curve(points, points[1], "a title", float_abs_rel=0.03, target_abs_rel=0.05)
    (ax,) = figure.axes
    curve, chosen, exact, target = ax.lines
    assert np.column_stack([curve.get_xdata(), curve.get_ydata()]).tolist() == [list(each) for each in points]
    assert curve.get_drawstyle() == "steps-post"  # between two sizes, the smaller is the best there is
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == points[1]
    assert (exact.get_ydata()[0], target.get_ydata()[0]) == (0.03, 0.05)
    assert labels(ax) == ["best of its size", "chosen", "FP32 0.0300", "target 0.0500"]
    save_figure(figure, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 0


@pytest.mark.parametrize(
    "draw",
    [
        lambda title: paired_bars(["a"], ("", [1]), ("", [1]), title),
        lambda title: size_curve([(1.0, 0.1), (2.0, 0.05)], (1.0, 0.1), title, 0.04, 0.05),
        lambda title: before_after_bars([("a", 1.0, 2.0)], "mm", title),
        lambda title: drift_bars([("a", 0.1, 20.0)], title),
    ],
    ids=["paired_bars", "size_curve", "before_after_bars", "drift_bars"],
)
def test_a_long_title_stays_in_the_figure(draw):
    title = "Mixed precision: 2026-11-30_12-10-52, per-tensor-minmax, recipe [fold, equalize, split_weights, " * 3
    figure = draw(title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    extent = figure._suptitle.get_window_extent(canvas.get_renderer())
    assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width
    assert extent.y1 <= figure.bbox.height
