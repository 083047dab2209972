"""Thermometer codes without retraining: the same depth, a new graph, the old one untouched."""

import copy

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.models import IntegerFractionalHead, SingleHead
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.passes.thermometer import Thermometer, thermometer
from depth_distill.quantization.target.target import load_target
from tests.models.networks import image, spread_network
from tests.quantization.networks import with_thermometer


def single(encoding="log", output="clip"):
    return spread_network(lambda channels, depth_range: SingleHead(channels, depth_range, encoding, output))


@pytest.mark.parametrize("output", ["clip", "sigmoid"])
@pytest.mark.parametrize("num_codes", [2, 4, 8, 16])
def test_a_thermometer_is_exact_in_float(output, num_codes):
    network = single(output=output)
    before = copy.deepcopy(network.state_dict())
    made = with_thermometer(network, num_codes)
    with torch.no_grad():
        code = network(image())
        again = made.codec.host.single.encode_with(torch, made.predict_depth(image()))
        codes = made(image())
    assert code.std() > 0.1
    assert codes.shape[1] == num_codes
    assert (again - code).abs().max() < 1.1e-5  # of the range; what the logit spacing cuts off is 1e-5
    assert not made.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert isinstance(network.head, SingleHead)


@pytest.mark.parametrize("encoding", ["linear", "inverse"])
def test_the_encoding_is_kept(encoding):
    network = single(encoding)
    made = with_thermometer(network, 8)
    with torch.no_grad():
        # Inverse depth at 13 m moves by 0.3 mm for 1e-6 of the code, which is what sums round to in another order.
        torch.testing.assert_close(made.predict_depth(image()), network.predict_depth(image()), rtol=3e-4, atol=1e-4)


def test_only_a_single_head_can_be_converted():
    network = spread_network(IntegerFractionalHead)
    interface = Interface.of_codes(InputLayout(8, 8, (0, 0, 0), (1, 1, 1)), network.codec.host)
    with pytest.raises(ConfigError, match="expected a network that returns a single code, received integer/fraction"):
        Thermometer(8).requires(trace(network), Context(load_target("per-tensor-minmax"), (), interface))
    with pytest.raises(ConfigError, match="the network ends in .*, expected a convolution to one channel"):
        thermometer(fold(trace(network)), single().codec.host, 8)


def test_a_thermometer_of_other_levels_is_refused():
    with pytest.raises(ConfigError, match="num_codes: received 5, .*expected one of 2, 4, 8, 16"):
        Thermometer(5)
