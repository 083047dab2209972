"""Outputs of a network: layouts, separate outputs, logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.codecs import DepthRange, HostIntegerFractional, HostSingle, HostThermometer
from depth_distill.errors import ConfigError
from depth_distill.models import (
    DepthNet,
    IntegerFractionalHead,
    SingleHead,
    ThermometerHead,
)
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import OutputLayout, named_layout, output_layout
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.passes.outputs import drop_sigmoid, separate_outputs
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target

RANGE = DepthRange(0.5, 15.0)


def graph_of(head):
    torch.manual_seed(0)
    network = DepthNet("test_efficientnet", decoder_channels=(8, 8, 8, 8, 8), head=head).eval()
    nn.init.normal_(network.head.conv.weight, std=0.5)
    return network, fold(trace(network))


def test_the_names_of_the_outputs():
    assert output_layout(HostSingle(RANGE)) == OutputLayout(("codes",), (1,))
    assert output_layout(HostSingle(RANGE), logits=True) == OutputLayout(("logits",), (1,), True)
    assert output_layout(HostIntegerFractional(RANGE)).names == ("integer", "fractional")
    assert output_layout(HostIntegerFractional(RANGE), separate=False) == OutputLayout(("codes",), (2,))
    assert output_layout(HostThermometer(RANGE)) == OutputLayout(("codes",), (8,))
    assert output_layout(HostThermometer(RANGE, num_codes=2), separate=True).names == ("code_0", "code_1")


@pytest.mark.parametrize(
    "codec", [HostSingle(RANGE), HostIntegerFractional(RANGE), HostThermometer(RANGE, num_codes=4)]
)
def test_a_layout_is_found_by_its_names(codec):
    for separate in (None, False, True):
        for logits in (False, True):
            layout = output_layout(codec, separate, logits)
            assert named_layout(codec, layout.names) == layout
    assert named_layout(codec, ["output_0"]) == OutputLayout(("output_0",), (codec.channels,))
    with pytest.raises(ConfigError, match="outputs a, b, expected those of .*: .*codes or logits"):
        named_layout(codec, ["a", "b"])


def test_outputs_come_by_name_or_in_order_and_are_checked():
    layout = OutputLayout(("integer", "fractional"), (1, 1))
    one, two = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert torch.equal(layout.codes([one, two]), torch.cat([one, two], 1))
    assert torch.equal(layout.codes({"fractional": two, "integer": one}), torch.cat([one, two], 1))
    with pytest.raises(ConfigError, match="no output 'fractional'; received integer"):
        layout.codes({"integer": one})
    with pytest.raises(ConfigError, match="'integer' has 2 channels, expected 1"):
        layout.codes([torch.zeros(1, 2, 2, 2), two])
    with pytest.raises(ConfigError, match="received 1 outputs, expected 2"):
        layout.codes([one])


@pytest.mark.parametrize("head", [IntegerFractionalHead, ThermometerHead])
def test_separate_outputs_are_the_same_codes(head):
    network, graph = graph_of(head)
    layout = output_layout(network.codec.host, separate=True)
    apart = separate_outputs(graph, layout)
    image = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        outputs = apart(image)
        # One filter alone is summed in another order than among others.
        assert torch.allclose(layout.codes(outputs), network(image), atol=1e-5)
    assert isinstance(outputs, tuple)
    assert [each.shape[1] for each in outputs] == list(layout.channels)


def test_separate_outputs_are_quantized_each_by_itself():
    network, graph = graph_of(IntegerFractionalHead)
    layout = output_layout(network.codec.host)
    images = torch.randn(4, 3, 32, 64)
    quantized = quantize_post_training(
        separate_outputs(graph, layout), load_target("per-tensor-minmax"), [images], progress=False
    )
    with torch.no_grad():
        drift = (layout.codes(quantized(images)) - network(images)).abs().mean()
    assert 0 < drift < 0.1
    sites = [name for name, each in quantized.named_modules() if getattr(each, "kind", "") == "output"]
    assert len(sites) == 2


def test_logits_are_what_the_sigmoid_was_given():
    network, graph = graph_of(SingleHead)
    image = torch.randn(1, 3, 32, 64)
    layout = output_layout(network.codec.host, logits=True)
    with torch.no_grad():
        logits = drop_sigmoid(graph)(image)
        assert torch.allclose(logits.sigmoid(), network(image), atol=1e-6)
        assert torch.allclose(layout.codes([logits]), network(image), atol=1e-6)
    assert not torch.allclose(logits, network(image), atol=0.1)


@pytest.mark.parametrize(
    "behind",
    [
        torch.sigmoid,
        lambda x: x.sigmoid(),
        lambda x: torch.sigmoid(input=x),
        lambda x: F.interpolate(x.sigmoid(), scale_factor=2, mode="nearest"),
    ],
)
def test_a_sigmoid_need_not_be_a_module(behind):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 3)

        def forward(self, image):
            return behind(self.conv(image))

    torch.manual_seed(0)
    network, image = Network(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        logits = drop_sigmoid(trace(network))(image)
        assert logits.min() < 0
        torch.testing.assert_close(logits.sigmoid(), network(image))


def test_what_has_no_sigmoid_or_another_ending_is_refused():
    _, graph = graph_of(ThermometerHead)
    with pytest.raises(ConfigError, match=r"ends in head\.\S+, not in a sigmoid"):
        drop_sigmoid(graph)
    with pytest.raises(ConfigError, match="expected a convolution to 2 channels"):
        separate_outputs(graph, OutputLayout(("a", "b"), (1, 1)))
