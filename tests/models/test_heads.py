"""Heads: codes stay in [0, 1], a fresh head can learn everywhere, and each traces to the same function."""

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.models.heads import (
    IntegerFractionalHead,
    SingleHead,
    ThermometerHead,
)
from depth_distill.quantization.graph.trace import trace
from depth_distill.types import DepthRange

RANGE = DepthRange(0.5, 15.0)
HEADS = {
    "single": lambda: SingleHead(8, RANGE),
    "single, clip": lambda: SingleHead(8, RANGE, output="clip"),
    "integer, fraction": lambda: IntegerFractionalHead(8, RANGE),
    "integer, fraction, clip": lambda: IntegerFractionalHead(8, RANGE, "round", "floor", "triangle", "clip"),
    "thermometer": lambda: ThermometerHead(8, RANGE, num_codes=4),
    "thermometer, logit": lambda: ThermometerHead(8, RANGE, num_codes=4, spacing="logit"),
}


@pytest.fixture(params=HEADS)
def head(request):
    torch.manual_seed(0)
    return HEADS[request.param]()


def test_codes_stay_in_the_unit_interval(head):
    codes = head(100 * torch.randn(2, 8, 6, 7))
    assert codes.shape == (2, head.codec.channels, 6, 7)
    assert 0 <= codes.min() <= codes.max() <= 1


def test_a_fresh_head_passes_gradient_to_every_pixel_through_its_decoder(head):
    features = torch.randn(2, 8, 16, 16, requires_grad=True)
    depth_m = head.codec.decode(head(features))
    assert depth_m.std() > 0
    depth_m.sum().backward()
    assert bool((features.grad != 0).all())


def test_it_traces_to_the_same_function(head):
    features = torch.randn(2, 8, 6, 7)
    with torch.no_grad():
        assert torch.equal(trace(head)(features), head(features))


def test_depth_follows_a_step_of_gradient_descent(head):
    torch.manual_seed(0)
    features = torch.randn(2, 8, 16, 16)
    target_m = torch.full((2, 1, 16, 16), 3.3)
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        loss = (head.codec.decode(head(features)) - target_m).abs().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[0]


def test_a_clip_reaches_both_ends_exactly():
    head = SingleHead(1, RANGE, output="clip")
    torch.nn.init.constant_(head.conv.weight, 1.0)
    assert head(torch.full((1, 1, 3, 3), 1e3)).unique().tolist() == [1.0]
    assert head(torch.full((1, 1, 3, 3), -1e3)).unique().tolist() == [0.0]


@pytest.mark.parametrize("build", [SingleHead, IntegerFractionalHead])
def test_an_unknown_output_names_the_choices(build):
    with pytest.raises(ConfigError, match="clip, sigmoid.*'tanh'"):
        build(8, RANGE, output="tanh")
