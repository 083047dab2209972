"""CodeNetwork, and networks as graphs."""

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.models import DepthNet, GraphNetwork
from depth_distill.quantization.graph.trace import trace


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DepthNet("mobilenetv3_small_050", decoder_channels=(16, 16, 8, 8, 8)).eval()


def test_a_graph_network_predicts_the_depth_of_its_source(network):
    traced = GraphNetwork(trace(network), network).eval()
    image = torch.randn(1, 3, 32, 64)
    assert torch.equal(traced.predict_depth(image), network.predict_depth(image))
    assert traced.depth_range == network.depth_range
    assert traced.codec is network.codec


def test_a_graph_network_is_traced_to_a_copy_of_its_graph(network):
    traced = GraphNetwork(trace(network), network)
    again = trace(traced)
    assert [node.target for node in again.graph.nodes] == [node.target for node in traced.graph.graph.nodes]
    with torch.no_grad():
        next(again.parameters()).add_(1.0)
    assert not torch.equal(next(again.parameters()), next(traced.graph.parameters()))


def test_a_graph_network_refuses_the_sizes_that_its_source_refuses(network):
    with pytest.raises(ConfigError, match="multiples of its stride 32"):
        GraphNetwork(trace(network), network).predict_depth(torch.zeros(1, 3, 40, 64))


def test_the_representation_has_codec_and_depth_range(network):
    assert "log, 0.5-15 m" in str(network)
    assert "log, 0.5-15 m" in str(GraphNetwork(trace(network), network))
