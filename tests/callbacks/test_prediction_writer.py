"""PredictionWriter: depth maps hold what was predicted, panels show it, both are named after their sample."""

import numpy as np
import pytest
from PIL import Image

from depth_distill.callbacks import PredictionWriter, prediction_writer
from depth_distill.data.synthetic import SyntheticDepth
from tests.callbacks.small_run import datamodule, task, trainer
from tests.data.constant_depth import ConstantDepth


class Photos(ConstantDepth):
    """Images without ground truth."""

    has_depth = False


def predict(folder, data, **kwargs):
    """Predicted metres ``(N, H, W)``."""
    batches = trainer(folder, PredictionWriter(**kwargs)).predict(task(), data)
    return np.concatenate([batch[:, 0].numpy() for batch in batches])


def files(folder, kind):
    root = folder / "predictions" / kind
    return [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.*"))]


@pytest.mark.parametrize("depth_scale", [1000.0, 256.0])
def test_depth_maps_hold_the_predictions_in_the_units_asked_for(tmp_path, depth_scale):
    predicted_m = predict(tmp_path, datamodule(), depth_scale=depth_scale, panels=False)
    assert files(tmp_path, "depth") == [f"constant/{index:03d}.png" for index in range(6)]
    for index in range(6):
        with Image.open(tmp_path / "predictions" / "depth" / "constant" / f"{index:03d}.png") as file:
            np.testing.assert_array_equal(np.asarray(file), np.round(predicted_m[index] * depth_scale))
    assert files(tmp_path, "panels") == []


@pytest.mark.parametrize(("mode", "shown"), [("pad", slice(8, 24)), ("crop", slice(0, 32)), ("stretch", slice(0, 32))])
def test_bars_are_cut_from_what_is_written(tmp_path, mode, shown):
    data = datamodule(predict=SyntheticDepth(1, size=(32, 64)), image_size=(32, 32), resize=mode)
    predicted_m = predict(tmp_path, data)[0, shown]
    with Image.open(tmp_path / "predictions" / "depth" / "synthetic" / "000000.png") as file:
        np.testing.assert_array_equal(np.asarray(file), np.round(predicted_m * 1000))


@pytest.mark.parametrize(("dataset", "has_truth"), [(ConstantDepth(2), True), (Photos(2, depth_m=0.0), False)])
def test_panels_show_ground_truth_where_there_is_some(tmp_path, monkeypatch, dataset, has_truth):
    rows = []

    def depth_panel(panel):
        rows.extend(panel)
        return original(panel)

    original = prediction_writer.depth_panel
    monkeypatch.setattr(prediction_writer, "depth_panel", depth_panel)
    predicted_m = predict(tmp_path, datamodule(predict=dataset))
    assert files(tmp_path, "panels") == files(tmp_path, "depth") == ["constant/000.png", "constant/001.png"]
    assert [row.title for row in rows] == ["constant/000", "constant/001"]
    assert [row.depth_m is not None for row in rows] == [has_truth] * 2
    np.testing.assert_array_equal(rows[1].prediction_m[0], predicted_m[1])
    # Image and prediction, or those with ground truth and error, at 90 pixels an inch.
    with Image.open(tmp_path / "predictions" / "panels" / "constant" / "000.png") as panel:
        assert (panel.width > 900) == has_truth
