"""Pictures: the depth PNG is exact, and panels have all of their parts."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from depth_distill.display.pictures import PanelRow, depth_panel, error_map, save_depth_png, save_figure


def row(with_depth=True):
    depth_m = torch.linspace(1, 4, 48 * 64).view(1, 48, 64)
    valid = torch.ones(1, 48, 64, dtype=torch.bool)
    valid[:, :10] = False
    return PanelRow("a", torch.rand(3, 48, 64), depth_m * 1.1, depth_m if with_depth else None, valid)


def test_depth_png_holds_millimetres_and_clamps(tmp_path):
    path = tmp_path / "a.png"
    save_depth_png(torch.tensor([[[1.2344, 0.0, 70.0]]]), path)
    assert np.asarray(Image.open(path)).tolist() == [[1234, 0, 65535]]


def test_a_panel_shows_image_truth_prediction_and_error_in_metres(tmp_path):
    figure = depth_panel([row(), row()])
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["a", "ground truth [m]", "prediction [m]", "error [m], abs_rel 0.100"] * 2
    path = tmp_path / "panel.png"
    save_figure(figure, path)
    assert Image.open(path).width > 600


def test_truth_and_prediction_share_a_scale_and_holes_are_masked():
    images = [ax.images[0] for ax in depth_panel([row()]).axes if ax.get_title() and ax.images]
    truth, prediction = images[1], images[2]
    assert truth.get_clim() == prediction.get_clim()
    assert np.ma.getmaskarray(truth.get_array())[:10].all()
    assert not np.ma.getmaskarray(truth.get_array())[10:].any()


def maps(figure):
    """Truth, prediction and error of the first row, with NaN where there is none."""
    drawn = [ax.images[0].get_array() for ax in figure.axes if ax.get_title() and ax.images]
    return [np.ma.filled(np.ma.asarray(values, dtype=float), np.nan) for values in drawn[1:4]]


def test_points_of_a_sparse_map_are_drawn_wider_and_measured_as_they_are():
    depth_m, valid = torch.full((1, 48, 64), 2.0), torch.zeros(1, 48, 64, dtype=torch.bool)
    valid[0, 10, 20] = True
    figure = depth_panel([PanelRow("a", torch.rand(3, 48, 64), depth_m * 1.5, depth_m, valid)])
    truth, prediction, error = maps(figure)
    rows, columns = np.nonzero(np.isfinite(truth))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 12, 18, 22)
    assert np.nanmax(truth) == np.nanmin(truth) == 2.0
    assert np.isfinite(error).sum() == 25
    assert np.isfinite(prediction).all()
    assert "error [m], abs_rel 0.500" in [ax.get_title() for ax in figure.axes]


def test_points_keep_their_own_depth_where_they_meet():
    depth_m, valid = torch.full((1, 9, 9), 2.0), torch.zeros(1, 9, 9, dtype=torch.bool)
    depth_m[0, 4, 5:] = 8.0
    valid[0, 4, 4:6] = True
    truth = maps(depth_panel([PanelRow("a", torch.rand(3, 9, 9), depth_m, depth_m, valid)]))[0]
    assert (truth[4, 4], truth[4, 5]) == (2.0, 8.0)


def test_one_depth_everywhere_and_a_name_like_a_formula_can_be_drawn(tmp_path):
    depth_m, valid = torch.full((1, 48, 64), 2.0), torch.ones(1, 48, 64, dtype=torch.bool)
    save_figure(
        depth_panel([PanelRow("cost_$5_and_$", torch.rand(3, 48, 64), depth_m, depth_m, valid)]), tmp_path / "a.png"
    )
    assert Image.open(tmp_path / "a.png").width > 600


def test_a_long_name_keeps_its_end_and_its_column():
    name = "2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005"
    title = depth_panel([row()._replace(title=name)]).axes[0].get_title()
    assert len(title) == 40
    assert title.startswith("...")
    assert name.endswith(title[3:])


def test_ticks_are_metres_in_steps_of_equal_ratio():
    figure = depth_panel([row()])
    bar = next(ax for ax in figure.axes if not ax.get_title())
    ticks = bar.get_yticks()
    assert len(ticks) == 5
    np.testing.assert_allclose(ticks[1:] / ticks[:-1], ticks[1] / ticks[0])
    assert 1 <= ticks[0] < ticks[-1] <= 4


def test_without_ground_truth_there_are_two_columns():
    titles = [ax.get_title() for ax in depth_panel([row(with_depth=False)]).axes if ax.get_title()]
    assert titles == ["a", "prediction [m]"]


@pytest.mark.parametrize(("bad", "share"), [(math.nan, "25%"), (math.inf, "25%"), (-math.inf, "25%")])
def test_predictions_that_are_not_finite_are_drawn_and_said(tmp_path, bad, share):
    prediction = torch.full((1, 4, 8), 2.0)
    prediction[:, :, :2] = bad
    for depth in (None, torch.full((1, 4, 8), 3.0)):
        row = PanelRow("a", torch.zeros(3, 4, 8), prediction, depth, None if depth is None else depth > 0)
        figure = depth_panel([row])
        save_figure(figure, tmp_path / "a.png")
        (title,) = (ax.get_title() for ax in figure.axes if ax.get_title().startswith("prediction"))
        assert title == f"prediction [m], {share} not finite"


def test_a_prediction_without_any_number_is_drawn_too(tmp_path):
    nothing = torch.full((1, 4, 8), math.nan)
    save_figure(depth_panel([PanelRow("a", torch.zeros(3, 4, 8), nothing)]), tmp_path / "a.png")
    save_figure(error_map([(torch.zeros(3, 4, 8), nothing, nothing)]), tmp_path / "b.png")
    save_depth_png(nothing, tmp_path / "c.png")
    assert np.asarray(Image.open(tmp_path / "c.png")).max() == 0
