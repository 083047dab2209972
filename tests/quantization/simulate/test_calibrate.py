import copy
import json

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError, DataError
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.calibrate import Calibration, apply_calibration, calibrate, weights_hash
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers, set_enabled
from depth_distill.quantization.simulate.statistics import Histogram, MeanSquaredError, MovingAverage, Percentile
from depth_distill.quantization.target.target import TensorFormat, load_target

UINT8 = TensorFormat("uint8", symmetric=False)


def quantized_net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid())
    return fake_quantize(trace(model), load_target("per-tensor-minmax"))


def images(count=6):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def feed(statistic, *samples):
    for sample in samples:
        statistic.update(sample, float(sample.min()), float(sample.max()))
    return statistic


def test_minmax_is_the_range_of_the_float_network():
    network = quantized_net()
    found = calibrate(network, images().split(2), progress=False)
    set_enabled(network, False)
    features = torch.relu(network.get_submodule("0")(images()))
    assert list(found.ranges) == ["input", "1", "2", "3"]
    assert found.ranges["input"] == (images().min().item(), images().max().item())
    assert found.ranges["1"] == (0.0, pytest.approx(features.max().item(), rel=1e-6))
    assert (found.samples, found.calibrator) == (6, "minmax")


def test_ranges_are_those_of_float32_under_autocast():
    expected = calibrate(quantized_net(), images().split(2), progress=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert calibrate(quantized_net(), images().split(2), progress=False) == expected


@pytest.mark.parametrize("calibrator", ["minmax", "moving_average", "percentile", "mse"])
def test_the_result_depends_neither_on_the_run_nor_on_the_batch_size(calibrator):
    first, again, whole = (
        calibrate(quantized_net(), images().split(size), calibrator, progress=False) for size in (2, 2, 6)
    )
    assert first == again
    for site, (low, high) in first.ranges.items():
        assert whole.ranges[site] == (pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4))


def test_the_network_is_left_as_it_was():
    network = quantized_net().train()
    set_enabled(network, False, ["1"])
    before = copy.deepcopy(network.state_dict())
    calibrate(network, [images()], progress=False)
    assert network.training
    assert [site for site, each in quantizers(network).items() if not each.enabled] == ["1"]
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    assert not any(each._forward_pre_hooks for each in quantizers(network).values())


def test_applied_ranges_are_used():
    network = quantized_net()
    found = calibrate(network, [images()], progress=False)
    apply_calibration(found, network)
    low, high = found.ranges["input"]
    assert quantizers(network)["input"].scale.item() == pytest.approx((high - low) / 255)
    assert len(network(images()).unique()) <= 256


def test_json_round_trip(tmp_path):
    network = quantized_net()
    found = calibrate(network, [images()], progress=False)
    found.save(tmp_path / "ranges.json")
    assert Calibration.load(tmp_path / "ranges.json") == found
    assert set(json.loads((tmp_path / "ranges.json").read_text())) == {
        "calibrator", "samples", "weights_sha256", "ranges",
    }  # fmt: skip


def test_statistics_do_not_outlive_a_weight_change():
    network = quantized_net()
    found = calibrate(network, [images()], progress=False)
    with torch.no_grad():
        network.get_submodule("0").weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(ConfigError, match="measured on other weights: calibrate again"):
        apply_calibration(found, network)


def test_the_hash_is_of_weights_and_not_of_ranges():
    network = quantized_net()
    before = weights_hash(network)
    apply_calibration(calibrate(network, [images()], progress=False), network)
    assert weights_hash(network) == before
    assert weights_hash(trace(nn.Sequential(nn.Conv2d(3, 4, 3)))) != before


def test_ranges_of_another_network_are_refused():
    network = quantized_net()
    found = calibrate(network, [images()], progress=False)
    renamed = {("one" if site == "1" else site): each for site, each in found.ranges.items()}
    with pytest.raises(ConfigError, match="lacks the range of 1"):
        apply_calibration(Calibration("minmax", 6, found.weights_sha256, renamed), network)
    extra = {**found.ranges, "head": (0.0, 1.0)}
    with pytest.raises(ConfigError, match="has a range of head, but the network does not"):
        apply_calibration(Calibration("minmax", 6, found.weights_sha256, extra), network)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_bad_sample_is_named(bad):
    data = images()
    data[4, 1, 2, 3] = bad
    with pytest.raises(DataError, match="input: NaN or infinity in the float network at calibration sample 4"):
        calibrate(quantized_net(), data.split(2), progress=False)


def test_the_layer_that_overflows_is_named():
    network = quantized_net()
    with torch.no_grad():
        network.get_submodule("0").weight.fill_(3e38)
    with pytest.raises(DataError, match="^1: NaN or infinity in the float network at calibration sample 0"):
        calibrate(network, [images()], progress=False)
    assert all(each.enabled for each in quantizers(network).values())


def test_bad_arguments():
    with pytest.raises(ConfigError, match="calibrator: received 'minmx', did you mean 'minmax'"):
        calibrate(quantized_net(), [images()], "minmx", progress=False)
    with pytest.raises(ConfigError, match="percentile: received 0"):
        calibrate(quantized_net(), [images()], "percentile", percentile=0, progress=False)
    with pytest.raises(DataError, match="calibration set is empty"):
        calibrate(quantized_net(), [], progress=False)
    with pytest.raises(ConfigError, match="no activation quantizers"):
        calibrate(nn.Conv2d(3, 3, 1), [images()], progress=False)


def test_files_that_are_no_calibration(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        Calibration.load(tmp_path / "none.json")
    for text in ("{", "[]", '{"ranges": {"a": 1}}', '{"ranges": {"a": [2, 1]}}', '{"ranges": {"a": [0, NaN]}}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ConfigError):
            Calibration.load(tmp_path / "bad.json")


def test_moving_average_by_hand():
    found = feed(MovingAverage(), torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 4.0])).range()
    assert found == (pytest.approx(-1.02), pytest.approx(2.02))


def test_a_histogram_grows_exactly_and_keeps_its_size():
    samples = [torch.randn(1000, generator=torch.Generator().manual_seed(i)) * 10.0**i for i in range(-3, 4)]
    grown, at_once = Histogram(), Histogram()
    feed(grown, *samples)
    size = grown.counts.numel()
    feed(at_once, *reversed(samples))  # the widest first: it never has to grow again
    assert grown.limit == at_once.limit
    assert torch.equal(grown.counts, at_once.counts)
    assert grown.counts.sum() == 7000
    assert grown.counts.numel() == size == at_once.counts.numel()


def test_percentile_leaves_out_its_share_on_each_side():
    values = torch.arange(10000.0) - 2000
    values[0], values[-1] = -1e5, 1e5
    low, high = feed(Percentile(99.0), values).range()
    bin_width = 2 * 2.0**17 / 8192
    assert low == pytest.approx(-1950, abs=bin_width)
    assert high == pytest.approx(7950, abs=bin_width)
    assert feed(Percentile(100.0), values).range() == (-1e5, 1e5)


def test_percentile_of_a_relu_starts_at_zero():
    assert feed(Percentile(99.0), torch.relu(torch.randn(10000))).range()[0] == 0.0


@pytest.mark.parametrize(
    "tensor_format", [UINT8, TensorFormat("int8", True), TensorFormat("int8", True, power_of_two=True)]
)
def test_mse_is_the_best_range_and_gives_up_an_outlier(tensor_format):
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    values[0] = 40.0
    found = feed(MeanSquaredError(tensor_format), values).range()
    quantizer = FakeQuantizer("site", "activation", tensor_format)

    def error(low, high):
        quantizer.set_range(low, high)
        return (quantizer(values) - values).square().mean().item()

    # The histogram blurs values by half a bin, 64 / 8192.
    assert error(*found) <= 1.02 * min(error(-40 * i / 50, 40 * i / 50) for i in range(1, 51))
    assert error(*found) < error(values.min().item(), 40.0)
    assert found[1] < 40.0


def test_mse_keeps_a_range_that_is_already_best():
    values = torch.linspace(0, 1, 256).repeat(100)  # exactly the 256 codes
    low, high = feed(MeanSquaredError(UINT8), values).range()
    assert (low, high) == (0.0, pytest.approx(1.0, abs=0.011))


def test_an_all_zero_tensor():
    for statistic in (Percentile(99.9), MeanSquaredError(UINT8)):
        assert feed(statistic, torch.zeros(10)).range() == (0.0, 0.0)
