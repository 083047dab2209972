"""Pictures: the depth PNG is exact, panels have the parts they promise."""

import numpy as np
import torch
from PIL import Image

from depth_distill.pictures import PanelRow, depth_panel, save_depth_png, save_figure


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


def test_without_ground_truth_there_are_two_columns():
    titles = [ax.get_title() for ax in depth_panel([row(with_depth=False)]).axes if ax.get_title()]
    assert titles == ["a", "prediction [m]"]
