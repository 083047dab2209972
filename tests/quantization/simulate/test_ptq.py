"""Post-training quantization: placement and calibration in one call, with the target's own calibrator."""

import copy
import dataclasses

import pytest
import torch

from depth_distill.errors import ConfigError, DataError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.calibrate import calibrate
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers
from depth_distill.quantization.simulate.ptq import quantize_post_training, reset_weight_ranges
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer
from depth_distill.quantization.target.target import load_target
from tests.quantization.small_case import SITES, TARGET, SmallNet, drift, images


def ptq(target=TARGET, batches=None, graph_module=None):
    batches = images() if batches is None else batches
    return quantize_post_training(graph_module or trace(SmallNet()), target, batches, progress=False)


def test_it_is_ready_to_run_in_integers():
    quantized = ptq()
    assert not quantized.training
    assert set(quantizers(quantized)) == set(SITES)
    assert all(each.enabled and each.has_range for each in quantizers(quantized).values())
    image = images()[0]
    codes = quantized(image)
    step = quantizers(quantized)["output"].scale
    assert torch.equal((codes / step).round() * step, codes)
    assert torch.equal(codes, quantized(image))


def test_the_error_is_small_and_smaller_with_16_bits():
    scorer = drift()
    wide = dataclasses.replace(
        load_target("onnxruntime-cpu"),
        weights=dataclasses.replace(TARGET.weights, dtype="int16"),
        activations=dataclasses.replace(TARGET.activations, dtype="uint16"),
    )
    errors = [scorer(ptq(target))["abs_rel"] for target in (load_target("symmetric-pow2"), TARGET, wide)]
    assert errors[0] > errors[1] > 100 * errors[2] > 0
    assert errors[1] < 0.05


@pytest.mark.parametrize("calibrator", ["minmax", "moving_average"])
def test_ranges_are_from_the_targets_calibrator(calibrator):
    target = dataclasses.replace(TARGET, calibrator=calibrator)
    expected = calibrate(fake_quantize(trace(SmallNet()), target), images(), calibrator, progress=False)
    found = quantizers(ptq(target))
    for site, (low, high) in expected.ranges.items():
        assert found[site].low.item() == pytest.approx(min(low, 0.0))
        assert found[site].high.item() == pytest.approx(max(high, 0.0))


def test_the_float_network_is_untouched():
    graph_module = trace(SmallNet()).train()
    before, code = copy.deepcopy(graph_module.state_dict()), graph_module.code
    ptq(graph_module=graph_module)
    assert graph_module.training
    assert graph_module.code == code
    torch.testing.assert_close(graph_module.state_dict(), before, rtol=0, atol=0)


def test_images_may_come_from_a_generator():
    once = ptq(batches=(batch for batch in images()))
    assert torch.equal(once(images()[0]), ptq()(images()[0]))


def test_no_images_and_a_network_that_is_not_folded():
    with pytest.raises(DataError, match="calibration set is empty"):
        ptq(batches=())
    with pytest.raises(ConfigError, match="fold batch norm before"):
        ptq(graph_module=trace(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))))


def test_weight_ranges_are_those_of_the_weights_also_where_they_are_learned():
    quantized = fake_quantize(trace(SmallNet()), TARGET, learnable=("weight",))
    sites = {site: each for site, each in quantizers(quantized).items() if each.kind == "weight"}
    before = {site: each.scale.item() for site, each in sites.items()}
    with torch.no_grad():
        for module in quantized.modules():
            if isinstance(module, QuantizedLayer):
                module.weight.mul_(2)
    assert {site: each.scale.item() for site, each in sites.items()} == before
    reset_weight_ranges(quantized)
    for site, each in sites.items():
        assert each.scale.item() == pytest.approx(2 * before[site]), site
