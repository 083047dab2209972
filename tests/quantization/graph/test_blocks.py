"""Blocks are found where one value is left: behind residual blocks and layers, with skip connections let pass."""

import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.quantization.graph.blocks import find_blocks, values_read, values_returned
from depth_distill.quantization.graph.trace import trace

IMAGE = torch.zeros(1, 3, 16, 16)


def layers_of(network, max_layers):
    """Names of the layers of each block."""
    graph = trace(network)
    blocks = find_blocks(graph, IMAGE, max_layers)
    layers = {name for name, module in graph.named_modules() if isinstance(module, nn.Conv2d)}
    inner = [node for node in graph.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    assert [node for block in blocks for node in block] == inner  # every node in one block, in order
    return [[str(node.target) for node in block if node.target in layers] for block in blocks]


class Residual(nn.Module):
    """A stem, two residual blocks (the second with a stride) and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 1, stride=2)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        x = (self.down(x) + self.d(self.c(x).relu())).relu()
        return self.head(x)


class UNet(nn.Module):
    """A resolution that is left and returned to, with a skip connection."""

    def __init__(self):
        super().__init__()
        self.high, self.low = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.lower, self.back = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.join, self.head = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        high = self.high(x).relu()
        x = self.back(self.lower(self.low(high).relu()).relu()).relu()
        x = F.interpolate(x, scale_factor=4, mode="nearest")
        return self.head(self.join(torch.cat([x, high], 1)).relu())


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, around which the input is added."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.expand, self.depthwise = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 4, 1)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.project(F.relu6(self.depthwise(F.relu6(self.expand(x))))))


class Gated(nn.Module):
    """Squeeze and excite: a gate of one position is no coarser resolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.reduce, self.excite = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        gate = self.excite(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x * gate)


def chain():
    return nn.Sequential(*(layer for _ in range(5) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())))


def test_a_chain_is_cut_behind_activations_and_joined_up_to_the_limit():
    assert layers_of(chain(), 1) == [["0"], ["2"], ["4"], ["6"], ["8"]]
    assert sorted(map(len, layers_of(chain(), 2))) == [1, 2, 2]
    assert layers_of(chain(), 5) == [["0", "2", "4", "6", "8"]]
    graph = trace(chain())
    assert all(str(block[-1].target) in "13579" for block in find_blocks(graph, IMAGE, 1))


def test_a_residual_block_ends_behind_its_add():
    assert layers_of(Residual(), 1) == [["stem"], ["a", "b"], ["down", "c", "d"], ["head"]]


def test_a_skip_connection_passes_cuts():
    assert layers_of(UNet(), 1) == [["high"], ["low"], ["lower"], ["back"], ["join"], ["head"]]
    graph = trace(UNet())
    join = find_blocks(graph, IMAGE, 1)[4]
    # Upsampling and concat go with the layer that reads them.
    assert [node.op for node in join].count("call_function") == 2
    assert [len(values_read(join)), len(values_returned(join))] == [2, 1]


def test_joined_blocks_end_where_the_fewest_numbers_pass():
    network = InvertedResidual()
    assert layers_of(network, 1) == [["stem"], ["expand", "depthwise", "project"], ["head"]]
    bare = nn.Sequential(network.stem, network.expand, nn.ReLU6(), network.depthwise, nn.ReLU6(), network.project)
    assert layers_of(bare, 3) == [["0"], ["1", "3", "5"]]


def test_a_gate_belongs_to_the_block_of_what_it_gates():
    assert layers_of(Gated(), 1) == [["stem"], ["reduce", "excite"], ["head"]]
