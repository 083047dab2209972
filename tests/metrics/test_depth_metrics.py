"""DepthMetrics: the protocol, bands, uneven batches, repeated samples, two processes."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from depth_distill.errors import ConfigError
from depth_distill.metrics import METRIC_NAMES, DepthMetrics, depth_metrics_per_image
from depth_distill.types import DepthRange
from tests.metrics.test_functional import maps

RANGE = DepthRange(0.5, 15.0)


def whole(batch=7):
    metrics = DepthMetrics(RANGE)
    metrics.update(*maps(batch), torch.arange(batch))
    return metrics.compute()


def same(values, expected):
    assert {k: v.item() for k, v in values.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-12, nan_ok=True
    )


def test_each_image_weighs_the_same():
    prediction_m, target_m, valid = maps(2)
    valid[0] = False
    valid[0, 0, 0, 0] = True  # one pixel against a whole image
    rows = depth_metrics_per_image(prediction_m.clamp(0.5, 15), target_m, valid)
    metrics = DepthMetrics(RANGE)
    metrics.update(prediction_m, target_m, valid)
    assert metrics.compute()["abs_rel"].item() == pytest.approx(rows[:, 0].mean().item(), rel=1e-12)


def test_uneven_batches_change_nothing():
    metrics = DepthMetrics(RANGE)
    for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
        metrics.update(*(x[part] for x in maps(7)), torch.arange(7)[part])
    same(metrics.compute(), whole())


def test_a_sample_that_comes_twice_counts_once_and_one_without_index_always():
    metrics = DepthMetrics(RANGE)
    metrics.update(*maps(7), torch.arange(7))
    metrics.update(*(x[:2] for x in maps(7)), torch.arange(2))
    same(metrics.compute(), whole())
    assert len(metrics.per_image()[1]) == 7
    anonymous = DepthMetrics(RANGE)
    anonymous.update(*maps(3))
    anonymous.update(*maps(3))
    assert len(anonymous.per_image()[1]) == 6


def test_bands_split_by_ground_truth_and_share_no_pixel():
    target_m = torch.tensor([0.5, 1.9, 2.0, 4.9, 5.0, 15.0]).view(1, 1, 1, 6)
    factor = torch.tensor([1.1, 1.1, 1.2, 1.2, 1.3, 0.7]).view(1, 1, 1, 6)
    metrics = DepthMetrics(RANGE)
    metrics.update(target_m * factor, target_m, target_m > 0)
    values = metrics.compute()
    found = [values[f"abs_rel_{band}"].item() for band in ("0.5-2m", "2-5m", "5-15m")]
    assert found == pytest.approx([0.1, 0.2, 0.3], rel=1e-5)
    assert values["abs_rel"].item() == pytest.approx(0.2, rel=1e-5)


def test_the_cap_drops_ground_truth_and_clamps_predictions():
    metrics = DepthMetrics(DepthRange(1.0, 4.0), bands_m=())
    target_m = torch.tensor([0.9, 2.0, 4.1]).view(1, 1, 1, 3)
    metrics.update(torch.full_like(target_m, 100.0), target_m, target_m > 0)
    assert metrics.compute()["abs_rel"].item() == pytest.approx(1.0)  # only 2 m counts, predicted as 4 m
    assert metrics.protocol == "per-image mean, depth 1-4 m"


def test_images_without_depth_are_left_out_and_none_at_all_is_nan():
    prediction_m, target_m, valid = maps(3)
    valid[1] = False
    metrics = DepthMetrics(RANGE)
    metrics.update(prediction_m, target_m, valid)
    expected = depth_metrics_per_image(prediction_m.clamp(0.5, 15), target_m, valid)[[0, 2], 0].mean()
    assert metrics.compute()["abs_rel"].item() == pytest.approx(expected.item(), rel=1e-12)
    nothing = DepthMetrics(RANGE)
    nothing.update(prediction_m, target_m, torch.zeros_like(valid))
    assert bool(nothing.compute()["abs_rel"].isnan())


def test_reset_forgets():
    metrics = DepthMetrics(RANGE)
    metrics.update(*maps(3))
    metrics.reset()
    assert bool(metrics.compute()["abs_rel"].isnan())
    metrics.update(*maps(7), torch.arange(7))
    same(metrics.compute(), whole())


def test_measure_gives_the_rows_of_update_and_adds_none():
    metrics = DepthMetrics(RANGE)
    rows = metrics.measure(*maps(7))
    assert len(metrics.rows) == 0
    metrics.update(*maps(7), torch.arange(7))
    torch.testing.assert_close(metrics.per_image()[1], rows, rtol=0, atol=0, equal_nan=True)
    assert rows.shape == (7, len(metrics.names))
    assert rows.dtype == torch.float64


def test_measure_caps_and_splits_by_band():
    target_m = torch.tensor([0.4, 1.0, 3.0, 20.0]).view(1, 1, 1, 4)
    prediction_m = torch.tensor([9.0, 1.1, 99.0, 9.0]).view(1, 1, 1, 4)
    metrics = DepthMetrics(RANGE)
    row = dict(zip(metrics.names, metrics.measure(prediction_m, target_m, target_m > 0)[0].tolist(), strict=True))
    assert row["abs_rel_0.5-2m"] == pytest.approx(0.1)
    assert row["abs_rel_2-5m"] == pytest.approx(4.0)  # 99 m counts as 15 m
    assert row["abs_rel"] == pytest.approx(2.05)  # 0.4 m and 20 m lie outside of the range
    assert math.isnan(row["abs_rel_5-15m"])


def test_a_network_that_breaks_on_one_image_does_not_score_well():
    prediction_m, target_m, valid = maps(3)
    prediction_m[1] = float("nan")
    metrics = DepthMetrics(RANGE)
    metrics.update(prediction_m, target_m, valid)
    assert metrics.compute()["abs_rel"].item() == math.inf


def test_names_are_metrics_then_bands():
    assert tuple(whole())[: len(METRIC_NAMES)] == METRIC_NAMES
    assert "delta3_5-15m" in whole()


def test_an_empty_band_is_refused():
    with pytest.raises(ConfigError, match=r"\(5, 2\)"):
        DepthMetrics(RANGE, bands_m=((5, 2),))


def _evaluate_share(rank, init_file, out_file):
    dist.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=2)
    # 7 samples on 2 processes: DistributedSampler would give 0, 2, 4, 6 and 1, 3, 5, 0 - sample 0 comes twice.
    share = torch.tensor([[0, 2, 4, 6], [1, 3, 5, 0]][rank])
    metrics = DepthMetrics(RANGE)
    for part in share.split(3):
        metrics.update(*(x[part] for x in maps(7)), part)
    values = metrics.compute()
    if rank == 0:
        torch.save(values, out_file)
    dist.destroy_process_group()


def test_two_processes_with_a_repeated_sample_equal_one(tmp_path):
    mp.spawn(_evaluate_share, args=(tmp_path / "init", tmp_path / "out.pt"), nprocs=2)
    same(torch.load(tmp_path / "out.pt", weights_only=True), whole())


@pytest.mark.parametrize("band", [(2.0, 1.0), (-1.0, 2.0), (1.0, 1.0)])
def test_a_band_that_cannot_be_is_refused(band):
    with pytest.raises(ConfigError, match="a depth band needs 0 <= nearest < farthest"):
        DepthMetrics(DepthRange(0.5, 15.0), [band])
