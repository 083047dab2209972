"""Looking for the first number that is not finite leaves the network as it is."""

import torch

from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.tasks.finite import first_non_finite
from tests.quantization.small_case import images, quantized_net


def test_ranges_that_are_tracked_do_not_move():
    network = quantized_net().train()
    every = quantizers(network)
    for each in every.values():
        each.tracking = True
    before = {site: (each.low.clone(), each.high.clone()) for site, each in every.items()}
    assert first_non_finite(network, 100 * images()[0]) is None
    assert all(torch.equal(each.low, before[site][0]) for site, each in every.items())
    assert all(torch.equal(each.high, before[site][1]) for site, each in every.items())
    assert all(each.tracking for each in every.values())
    network(100 * images()[0])  # does move them
    assert any(not torch.equal(each.high, before[site][1]) for site, each in every.items())
