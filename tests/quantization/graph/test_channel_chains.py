"""Chains: what they take in, and why a convolution starts none."""

import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.quantization.graph.channel_chains import channel_chains
from depth_distill.quantization.graph.trace import trace
from tests.quantization.passes.blocks import Bottleneck


def names(nodes):
    return [str(node.target) for node in nodes]


def test_an_inverted_bottleneck_is_a_chain_and_what_is_added_is_not():
    chains, left = channel_chains(trace(Bottleneck()))
    (chain,) = chains
    assert names(chain.nodes) == ["expand", "act1", "depthwise", "act2"]
    assert names(chain.layers) == ["expand", "depthwise"]
    assert names(chain.readers) == ["project"]
    assert left.keys() == {"stem", "project"}
    assert "read by" in left["stem"]


def test_pools_and_interpolation_belong_to_a_chain_and_gates_and_prelu_end_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))
            self.pool, self.prelu = nn.MaxPool2d(2), nn.PReLU(3)

        def forward(self, x):
            x = F.interpolate(self.pool(self.a(x)), scale_factor=2.0)
            x = torch.sigmoid(self.b(x).mean((2, 3), keepdim=True)) * x
            return self.d(self.prelu(self.c(x)))

    chains, left = channel_chains(trace(Net()))
    assert not chains
    assert left.keys() == {"a", "b", "c", "d"}
    assert "mean" in left["b"]
    assert "prelu" in left["c"]


def test_layers_that_share_weights_or_are_called_twice_start_none():
    shared = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)))
    shared[1].weight = shared[0].weight
    twice = nn.Conv2d(3, 3, 1)
    for network in (shared, nn.Sequential(twice, nn.ReLU(), twice)):
        assert not channel_chains(trace(network))[0]
