"""Order and augmentation depend on seed, epoch and index alone."""

import pytest
import torch
from torch.utils.data import DataLoader

from depth_distill.data.sampling import EpochLoader, EpochSampler, SampleKey, ViewDataset, view_seed
from depth_distill.types import DepthBatch
from tests.data.constant_depth import ConstantDepth


def noisy_view(sample, index):
    return DepthBatch(torch.rand(3, 2, 2), sample.depth_m, sample.valid, torch.tensor(index))


def test_order_changes_with_the_epoch_and_returns_with_it():
    sampler = EpochSampler(ConstantDepth(20), seed=3)
    first = [key.sample for key in sampler]
    sampler.set_epoch(1)
    second = [key.sample for key in sampler]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    sampler.set_epoch(0)
    assert [key.sample for key in sampler] == first


def test_keys_carry_the_epoch():
    sampler = EpochSampler(ConstantDepth(3))
    sampler.set_epoch(7)
    assert {key.epoch for key in sampler} == {7}


def test_views_are_taken_in_turn_and_the_order_is_that_of_the_epoch():
    sampler, plain = EpochSampler(ConstantDepth(20), views=3), EpochSampler(ConstantDepth(20))
    for epoch in range(7):
        sampler.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert {key.epoch for key in sampler} == {epoch % 3}
        assert [key.sample for key in sampler] == [key.sample for key in plain]


def test_a_resumed_epoch_leaves_out_what_was_seen():
    whole = list(EpochSampler(ConstantDepth(20)))
    assert list(EpochSampler(ConstantDepth(20), seen=lambda: 6)) == whole[6:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_takes_the_epoch_that_is_set_after_its_iterator_was_made(workers):
    sampler = EpochSampler(ConstantDepth(4))
    loader = EpochLoader(
        ViewDataset(ConstantDepth(4), noisy_view), sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )
    batches = iter(loader)
    sampler.set_epoch(5)
    view = ViewDataset(ConstantDepth(4), noisy_view)
    assert [int(b.sample_index) for b in batches] == [key.sample for key in sampler]
    first = next(iter(loader))
    assert torch.equal(first.image[0], view[SampleKey(int(first.sample_index), 5)].image)


def test_replicas_share_the_samples():
    shares = [[key.sample for key in EpochSampler(ConstantDepth(20), replicas=2, rank=rank)] for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(20))


def test_a_view_is_the_same_for_any_number_of_workers():
    views = ViewDataset(ConstantDepth(8), noisy_view, seed=5)
    batches = [
        torch.cat([batch.image for batch in DataLoader(views, batch_size=2, num_workers=workers)]) for workers in (0, 2)
    ]
    assert torch.equal(*batches)


def test_a_view_differs_by_epoch_index_and_seed():
    images = [
        ViewDataset(ConstantDepth(8), noisy_view, seed)[SampleKey(index, epoch)].image
        for seed, epoch, index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert len({tuple(image.flatten().tolist()) for image in images}) == 4


def test_a_view_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    ViewDataset(ConstantDepth(8), noisy_view)[0]
    assert torch.equal(torch.rand(2), expected)


def test_view_seeds_do_not_collide():
    seeds = {view_seed(seed, epoch, index) for seed in range(3) for epoch in range(30) for index in range(100)}
    assert len(seeds) == 9000
    assert all(0 <= seed < 2**63 for seed in seeds)
