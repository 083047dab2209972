"""DepthPanels: drawn when it is due, of evenly spread samples, with what the network saw and said."""

import pytest
import torch

from depth_distill.callbacks import DepthPanels, depth_panels
from depth_distill.errors import ConfigError
from tests.callbacks.small_run import datamodule, task, trainer
from tests.data.constant_depth import ConstantDepth


@pytest.fixture
def drawn(monkeypatch):
    """The rows of each panel that is drawn, in their order."""
    panels = []

    def depth_panel(rows):
        panels.append(rows)
        return original(rows)

    original = depth_panels.depth_panel
    monkeypatch.setattr(depth_panels, "depth_panel", depth_panel)
    return panels


def pictures(folder):
    return sorted(path.name for path in (folder / "pictures").glob("*"))


def test_every_so_many_epochs_and_after_the_last(tmp_path):
    trainer(tmp_path, DepthPanels(count=1, every_n_epochs=2), epochs=3).fit(task(), datamodule())
    assert pictures(tmp_path) == ["val-epoch001.png", "val-epoch002.png"]


def test_none_is_drawn_if_not_wanted_nor_in_the_sanity_check(tmp_path, drawn):
    trainer(tmp_path, DepthPanels(every_n_epochs=0)).fit(task(), datamodule())
    assert not drawn
    trainer(tmp_path, DepthPanels(count=1), num_sanity_val_steps=2).fit(task(), datamodule())
    assert len(drawn) == 1


def test_evaluation_is_drawn_under_the_name_of_its_split(tmp_path):
    run, fitted, data = trainer(tmp_path, DepthPanels(count=1)), task(), datamodule(test=ConstantDepth(2))
    run.validate(fitted, data, verbose=False)
    run.test(fitted, data, verbose=False)
    assert pictures(tmp_path) == ["test.png", "val.png"]


def test_samples_are_evenly_spread_over_the_split(tmp_path, drawn):
    trainer(tmp_path, DepthPanels(count=3)).validate(task(), datamodule(), verbose=False)
    (rows,) = drawn
    assert [row.title for row in rows] == ["constant/000", "constant/002", "constant/005"]  # in two batches
    trainer(tmp_path, DepthPanels(count=99)).validate(task(), datamodule(), verbose=False)
    assert len(drawn[1]) == 6


def test_a_row_holds_the_image_the_truth_and_the_prediction_of_its_sample(tmp_path, drawn):
    fitted, data = task().eval(), datamodule()
    trainer(tmp_path, DepthPanels(count=2)).validate(fitted, data, verbose=False)
    row = drawn[0][1]
    # Sample 5 is of grey level 5, 1.5 m away. Normalizing and undoing it rounds to a few 1e-8.
    torch.testing.assert_close(row.image, torch.full((3, 32, 64), 5 / 255), rtol=0, atol=1e-6)
    assert row.depth_m.unique().tolist() == [1.5]
    assert row.valid.all()
    with torch.no_grad():
        expected = fitted(data.evaluation_view("val")[5].image[None])[0]
    # A batch of 2 and one of 1 may be convolved in another order.
    torch.testing.assert_close(row.prediction_m, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", ["count", "every_n_epochs"])
def test_less_than_none_is_refused(key):
    with pytest.raises(ConfigError, match=rf"panels\.{key}: received -1, expected 0 or more"):
        DepthPanels(**{key: -1})
