"""Where in a network the error is: what each layer writes, against the float network of the same channel scales."""

import pytest
import torch
from torch import nn

from depth_distill.quantization.analysis.layer_deviation import layer_deviation
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target

TARGET = load_target("per-tensor-minmax")
BATCHES = list(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).split(2))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu, self.sigmoid = nn.ReLU(inplace=True), nn.Sigmoid()

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.sigmoid(self.second(x) + x), x


@pytest.fixture
def graphs():
    torch.manual_seed(0)
    graph = trace(Residual())
    return graph, quantize_post_training(graph, TARGET, BATCHES, progress=False)


def test_every_rounded_tensor_has_a_row_in_order(graphs):
    rows = layer_deviation(*graphs, BATCHES)
    assert [(each.name, each.is_layer) for each in rows] == [
        ("first", True),  # with the ReLU that is fused into it
        ("second", True),
        ("add", False),
        ("sigmoid", False),
    ]
    assert all(20 < each.sqnr_db < 60 for each in rows)


def test_it_is_the_relative_error_of_what_is_written(graphs):
    graph, quantized = graphs
    images = torch.cat(BATCHES)
    with torch.no_grad():
        exact, rounded = graph(images), quantized(images)
    pairs = zip(exact, rounded, strict=True)
    expected = [((one - other).square().sum() / one.square().sum()).sqrt() for one, other in pairs]
    rows = {each.name: each.relative for each in layer_deviation(graph, quantized, BATCHES)}
    assert rows["sigmoid"] == pytest.approx(float(expected[0]), rel=1e-4)
    assert rows["first"] == pytest.approx(float(expected[1]), rel=1e-4)


def test_a_layer_that_loses_everything_is_found(graphs):
    graph, _ = graphs
    with torch.no_grad():
        graph.second.weight[0] *= 1e4  # the other channels fall below the step of the tensor
    quantized = quantize_post_training(graph, TARGET, BATCHES, progress=False)
    with torch.no_grad():
        quantized.second.weight[0] /= 1e4
    rows = {each.name: each.sqnr_db for each in layer_deviation(graph, quantized, BATCHES)}
    assert rows["second"] < 3 < rows["first"]


def test_two_operators_of_one_kind_have_names_of_their_own():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return (self.conv(x) + x) + x

    torch.manual_seed(0)
    graph = trace(Sums())

    rows = layer_deviation(graph, quantize_post_training(graph, TARGET, BATCHES, progress=False), BATCHES)

    assert [each.name for each in rows] == ["conv", "add", "add_1"]
