"""Tracing: names survive, the model is copied, calls are found by module."""

import torch
from timm.layers import BatchNormAct2d
from torch import nn

from depth_distill.quantization.graph.trace import calls_by_module, trace
from tests.quantization.networks import assert_same_function, depth_net, image


def test_tracing_keeps_the_function_and_the_names_of_leaf_modules():
    net = depth_net("mobilenetv2_100")
    graph_module = trace(net)
    assert_same_function(net, graph_module, image())
    names = dict(net.named_modules())
    assert all(type(names[name]) is type(graph_module.get_submodule(name)) for name in calls_by_module(graph_module))


def test_a_batch_norm_with_activation_stays_whole():
    graph_module = trace(nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4)))
    assert list(calls_by_module(graph_module)) == ["0", "1"]


def test_tracing_copies_the_model_and_puts_the_copy_in_evaluation_mode():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    graph_module = trace(net)
    assert net.training
    assert not graph_module.get_submodule("1").training
    with torch.no_grad():
        graph_module.get_submodule("0").weight.zero_()
    assert net[0].weight.abs().sum() > 0


def test_a_module_that_is_used_twice_has_two_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x))

    assert [len(nodes) for nodes in calls_by_module(trace(Twice())).values()] == [2]
