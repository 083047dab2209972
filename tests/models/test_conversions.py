"""Another head without retraining: the same depth, a new network, the old one untouched."""

import copy

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.models import IntegerFractionalHead, SingleHead, thermometer_from_single
from tests.models.networks import image, spread_network


def single(encoding="log", output="clip"):
    return spread_network(lambda channels, depth_range: SingleHead(channels, depth_range, encoding, output))


@pytest.mark.parametrize("output", ["clip", "sigmoid"])
@pytest.mark.parametrize("num_codes", [2, 4, 8, 16])
def test_a_thermometer_is_exact_in_float(output, num_codes):
    network = single(output=output)
    before = copy.deepcopy(network.state_dict())
    made = thermometer_from_single(network, num_codes)
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
    made = thermometer_from_single(network, 8)
    with torch.no_grad():
        torch.testing.assert_close(made.predict_depth(image()), network.predict_depth(image()), rtol=1e-4, atol=1e-4)


def test_only_a_single_head_can_be_converted():
    with pytest.raises(ConfigError, match="IntegerFractionalHead; only a network with a SingleHead"):
        thermometer_from_single(spread_network(IntegerFractionalHead))


def test_a_thermometer_of_other_levels_is_refused():
    with pytest.raises(ConfigError, match="2, 4, 8, 16, got 5"):
        thermometer_from_single(single(), 5)
