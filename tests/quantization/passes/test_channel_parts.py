"""The best cut is found."""

import itertools

import pytest
import torch

from depth_distill.quantization.passes.channel_parts import Spread, share_out


def spread(seed, channels=9):
    generator = torch.Generator().manual_seed(seed)
    squares = torch.exp(3 * torch.randn(channels, generator=generator, dtype=torch.float64))
    return Spread(squares, torch.rand(channels, generator=generator, dtype=torch.float64))


def test_of_one_tensor_no_other_partition_is_better():
    one = spread(0)
    parts = share_out([one], 3)
    assert sorted(torch.cat(parts).tolist()) == list(range(9))
    others = (
        one.noise([part for k in range(3) if len(part := (torch.tensor(each) == k).nonzero()[:, 0])])
        for each in itertools.product(range(3), repeat=9)
    )
    assert one.noise(parts) == pytest.approx(min(others))


def test_parts_are_multiples_and_no_more_than_there_are_blocks():
    assert [len(each) for each in share_out([spread(1, 20)], 4, 8)] == [8, 8, 4]
    assert [len(each) % 4 for each in share_out([spread(1, 20)], 2, 4)] == [0, 0]


def test_two_tensors_are_shared_out_together():
    first, second = spread(2), spread(3)
    parts = share_out([first, second], 4)
    whole = [torch.arange(9)]
    assert all(each.noise(parts) <= each.noise(whole) for each in (first, second))
    assert sum(each.noise(parts) / each.noise(whole) for each in (first, second)) < 1


def test_channels_of_zeros_do_no_harm():
    zeros = Spread(torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    assert sorted(torch.cat(share_out([zeros, zeros], 2)).tolist()) == list(range(4))
