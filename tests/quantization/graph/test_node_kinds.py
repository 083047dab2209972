"""classify: what an operator does is read from its arguments by position or by name, and from its very class."""

import pytest
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.quantization.graph.node_kinds import classify


def kind(function):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    node = list(fx.symbolic_trace(Net()).graph.nodes)[1]
    return classify(fx.GraphModule(nn.Module(), node.graph))[node].kind


CASES = {
    "zeros": (lambda x: F.pad(x, (1, 1)), "move"),
    "zeros by name": (lambda x: F.pad(x, pad=(1, 1), mode="constant", value=0.0), "move"),
    "value by position": (lambda x: F.pad(x, (1, 1), "constant", 2.0), "compute"),
    "value by name": (lambda x: F.pad(x, (1, 1), value=2.0), "compute"),
    "reflected": (lambda x: F.pad(x, (1, 1), mode="reflect"), "move"),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), "move"),
    "nearest by position": (lambda x: F.interpolate(x, None, 2.0, "nearest"), "move"),
    "bilinear by position": (lambda x: F.interpolate(x, None, 2.0, "bilinear"), "compute"),
    "bilinear by name": (lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), "compute"),
}


@pytest.mark.parametrize(("function", "expected"), CASES.values(), ids=CASES)
def test_arguments_by_position_and_by_name(function, expected):
    assert kind(function) == expected


class Shifted(nn.ReLU):
    def forward(self, x):
        return super().forward(x) + 1


class Zeroed(nn.Identity):
    def forward(self, x):
        return x * 0


@pytest.mark.parametrize("module", [Shifted(), Zeroed(), nn.ConstantPad2d(1, 2.0)])
def test_a_class_that_is_derived_from_one_that_is_known_is_not_known(module):
    graph = fx.Graph()
    image = graph.placeholder("x")
    graph.output(graph.call_module("0", (image,)))
    graph_module = fx.GraphModule(nn.Sequential(module), graph)
    assert [operation.kind for operation in classify(graph_module).values()] == ["input", "compute", "output"]
