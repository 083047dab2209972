"""Tracing: names survive, the model is copied, calls are found by module."""

import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import UntraceableError, calls_by_module, trace
from depth_distill.quantization.passes.fold import fold
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


class OwnGraph(nn.Module):
    """Computes something around a graph that it holds."""

    def __init__(self):
        super().__init__()
        self.graph = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Sigmoid()))

    def forward(self, x):
        return 1 - self.graph((x - 0.5) / 0.2)


def test_an_attribute_that_happens_to_be_a_graph_is_not_the_network():
    net = OwnGraph().double()
    assert_same_function(net, trace(net), image())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda net: nn.DataParallel(nn.DataParallel(net))])
def test_wrappers_are_taken_off(wrap):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    assert list(calls_by_module(trace(wrap(net)))) == ["0", "1"]
    assert list(calls_by_module(trace(nn.Sequential(wrap(net), nn.Sigmoid())))) == ["0.0", "0.1", "1"]


class Checked(nn.Module):
    """Asks for the size of what it is given."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x):
        batch, _, height, width = x.shape
        if height % 2 or width % 2:
            raise ValueError("odd")
        x = self.conv(F.pad(x, (max(width % 32, 1), 0, 1, 0)))
        for _ in range(x.size(2) // 8):
            x = x + 1
        return x.view(batch, -1, *x.shape[2:])


def test_a_network_that_asks_for_sizes_is_traced_at_one_size_for_any_batch():
    with pytest.raises(UntraceableError, match="control flow"):
        trace(Checked())
    net = Checked().double()
    graph = trace(net, image_size=(32, 32))
    for count in (1, 3):
        assert_same_function(net, graph, torch.rand(count, 3, 32, 32, dtype=torch.float64))


@pytest.mark.parametrize("name", ["tf_mobilenetv3_small_minimal_100", "mobilevit_xxs"])
def test_timms_networks_with_same_padding_and_checks_of_sizes(name):
    net = timm.create_model(name, features_only=True, out_indices=(0, 3)).eval()
    graph = trace(net, image_size=(64, 96))
    images = torch.rand(2, 3, 64, 96)
    for found, expected in zip(graph(images), net(images), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)
    kinds = {type(module) for module in graph.modules() if isinstance(module, nn.Conv2d)}
    assert kinds == {nn.Conv2d}


def test_same_padding_of_timm_is_static_and_passes_go_through_it():
    net = timm.create_model("tf_mobilenetv3_small_minimal_100", features_only=True, out_indices=(0, 3)).eval()
    graph = fold(trace(net, image_size=(66, 95)))  # odd sizes: another padding on each side
    assert not any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())
    pads = [node.args[1] for node in graph.graph.nodes if node.target is F.pad]
    assert pads
    assert all(isinstance(each, int) for pad in pads for each in pad)
    images = torch.rand(2, 3, 66, 95)
    for found, expected in zip(graph(images), net(images), strict=True):
        assert torch.allclose(found, expected, atol=1e-4)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({"inner": Branching()})

    def forward(self, x):
        return self.block["inner"](x)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0 else -x  # this line


def test_a_failure_names_the_line_the_module_and_the_way_out():
    with pytest.raises(UntraceableError) as raised:
        trace(Deep(), image_size=(8, 8))
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("Deep cannot be traced: its module block.inner (Branching) fails at ")
    assert "test_trace.py:" in message
    assert "return x if x.mean() > 0 else -x  # this line" in message
    assert message.endswith("depth-distill import --onnx FILE")


def test_torchscript_and_torch_export_are_refused_by_name():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    exported = torch.export.export(net, (image().float(),)).module()
    with pytest.raises(ConfigError, match=r"a graph of torch\.export .* give the nn\.Module that was exported"):
        trace(exported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(net, image().float())
    with pytest.raises(ConfigError, match="TorchScript"):
        trace(script)


def test_another_method_is_traced():
    class Two(nn.Module):
        def forward(self, x):
            return x

        def depth(self, x):
            return x * 2

    assert torch.equal(trace(Two(), "depth")(image()), image() * 2)
