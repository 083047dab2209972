"""make_canonical: one word for one operator, layers as modules, and nothing that writes over its input."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.quantization.graph.node_kinds import classify
from depth_distill.quantization.graph.trace import calls_by_module, trace
from tests.quantization.networks import assert_same_function, image


class Function(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


RELUS = {
    "clamp": lambda x: torch.clamp(x, min=0),
    "clamp, by position": lambda x: torch.clamp(x, 0),
    "clip": lambda x: torch.clip(x, min=0.0),
    "method": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "in place": lambda x: (x + 0).clamp_(min=0),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "relu_": lambda x: F.relu_(x + 0),
}
NO_RELUS = {
    "two ends": lambda x: torch.clamp(x, 0, 1),
    "another end": lambda x: torch.clamp(x, min=0.5),
    "the upper end": lambda x: torch.clamp(x, max=0),
    "threshold at 1": lambda x: F.threshold(x, 1, 0),
    "to 1": lambda x: F.threshold(x, 0.0, 1.0),
}


@pytest.mark.parametrize("function", RELUS.values(), ids=RELUS)
def test_a_clamp_at_zero_is_a_relu(function):
    net = Function(lambda x: function(x - 0.5))
    traced = trace(net)
    assert_same_function(net, traced, image())
    assert "relu" in [operation.activation for operation in classify(traced).values()]


def test_a_threshold_at_zero_is_a_relu():
    traced = trace(nn.Sequential(nn.Threshold(0, 0), nn.Threshold(1, 0)))
    assert [type(each) for each in traced.children()] == [nn.ReLU, nn.Threshold]


@pytest.mark.parametrize("function", NO_RELUS.values(), ids=NO_RELUS)
def test_other_clamps_are_not(function):
    net = Function(lambda x: function(x - 0.5))
    traced = trace(net)
    assert_same_function(net, traced, image())
    assert "relu" not in [operation.activation for operation in classify(traced).values()]


def overwritten(x, conv, relu):
    """A shortcut that an activation writes over, as in many trained networks."""
    x = conv(x)
    return relu(x) * 2 + x


def augmented(x, conv, relu):
    x = conv(x)
    y = x
    y += 1
    y *= 3
    return relu(x)


def by_name(x, conv, relu):
    x = conv(x)
    y = F.relu(x, inplace=True)
    return x.sigmoid_() + y + x


@pytest.mark.parametrize("function", [overwritten, augmented, by_name])
def test_what_was_written_over_is_read_as_such(function):
    torch.manual_seed(0)
    net = Function(function, nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)).double().eval()
    traced = trace(net)
    assert_same_function(net, traced, image())
    with torch.no_grad():
        # A copy behind every operator, as a quantizer makes one, changes nothing.
        for node in list(traced.graph.nodes):
            if node.op in ("call_function", "call_method", "call_module"):
                with traced.graph.inserting_after(node):
                    copied = traced.graph.call_function(torch.clone, (node,))
                node.replace_all_uses_with(copied, delete_user_cb=lambda user, copied=copied: user is not copied)
        traced.recompile()
    assert_same_function(net, traced, image())
    assert net.layers[1].inplace


def test_writing_over_a_view_is_left_as_it_is():
    def function(x, conv):
        x = conv(x)
        x.view(-1).relu_()
        return x

    net = Function(function, nn.Conv2d(3, 4, 1)).double().eval()
    assert_same_function(net, trace(net), image())


def test_names_of_places_are_those_of_the_operator_without_overwriting():
    def function(x, conv):
        x = conv(x)
        x += x
        return x

    nodes = [node.name for node in trace(Function(function, nn.Conv2d(3, 4, 1))).graph.nodes]
    assert nodes == ["x", "layers_0", "add", "output"]


class Functional(nn.Module):
    """Layers as functions, two of them with the same weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.inner = nn.Module()
        self.inner.weight = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.inner.bias = nn.Parameter(torch.randn(4))
        self.up = nn.Module()
        self.up.weight = nn.Parameter(torch.randn(4, 2, 2, 2))

    def forward(self, x):
        x = F.conv2d(x, self.weight, padding=(1, 1), stride=2)
        for _ in range(2):
            x = F.conv2d(x, self.inner.weight / self.inner.weight.std(), self.inner.bias)
        return F.conv_transpose2d(x, self.up.weight, None, 2, groups=2)


def test_functional_layers_become_modules_under_the_name_of_their_weight():
    torch.manual_seed(0)
    net = Functional().double().eval()
    traced = trace(net)
    assert_same_function(net, traced, image())
    calls = calls_by_module(traced)
    assert [len(nodes) for nodes in calls.values()] == [1, 2, 1]
    assert list(calls)[1:] == ["inner", "up"]
    assert {node.op for node in traced.graph.nodes} == {"placeholder", "call_module", "output"}


def test_a_weight_that_depends_on_the_image_stays_a_function():
    net = Function(lambda x: F.conv2d(x, x.mean() * torch.ones(1, 3, 1, 1, dtype=torch.float64)))
    traced = trace(net)
    assert_same_function(net, traced, image())
    assert not calls_by_module(traced)
