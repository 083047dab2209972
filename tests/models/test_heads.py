"""Heads: codes stay in [0, 1], and a fresh head can learn everywhere."""

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.models.heads import SingleHead
from depth_distill.types import DepthRange

RANGE = DepthRange(0.5, 15.0)


@pytest.mark.parametrize("output", ["clip", "sigmoid"])
def test_codes_stay_in_the_unit_interval(output):
    head = SingleHead(8, RANGE, output=output)
    codes = head(100 * torch.randn(2, 8, 6, 7))
    assert codes.shape == (2, 1, 6, 7)
    assert 0 <= codes.min() <= codes.max() <= 1


def test_a_fresh_clip_head_passes_gradient_to_every_pixel():
    torch.manual_seed(0)
    head = SingleHead(8, RANGE, output="clip")
    features = torch.randn(2, 8, 16, 16, requires_grad=True)
    head(features).sum().backward()
    assert bool((features.grad != 0).all())


def test_a_clip_reaches_both_ends_exactly():
    head = SingleHead(1, RANGE, output="clip")
    torch.nn.init.constant_(head.conv.weight, 1.0)
    assert head(torch.full((1, 1, 3, 3), 1e3)).unique().tolist() == [1.0]
    assert head(torch.full((1, 1, 3, 3), -1e3)).unique().tolist() == [0.0]


def test_an_unknown_output_names_the_choices():
    with pytest.raises(ConfigError, match="clip, sigmoid.*'tanh'"):
        SingleHead(8, RANGE, output="tanh")
