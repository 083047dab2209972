"""A pair of codes without retraining: the same depth in two outputs, exact sums in INT8, and no wrong carry."""

import copy
import dataclasses
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.codecs import HostSingle
from depth_distill.errors import ConfigError
from depth_distill.models import IntegerFractionalHead, SingleHead
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.head import head_pass, with_head
from depth_distill.quantization.interface import InputLayout, Interface, OutputLayout
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.passes.pair import Pair, pair
from depth_distill.quantization.passes.thermometer import Thermometer, thermometer
from depth_distill.quantization.recipe import Recipe, load_recipe
from depth_distill.quantization.simulate.fake_quantize import placement, quantizers, set_enabled
from depth_distill.quantization.target.target import load_target
from depth_distill.types import DepthRange
from tests.export.networks import calibrated
from tests.models.networks import image, spread_network

RANGE = DepthRange(0.5, 15.0)


@cache
def single(output="clip"):
    """A folded graph with a single code."""
    return fold(trace(spread_network(lambda channels, depths: SingleHead(channels, depths, "log", output))))


def converted(encoding="log", output="clip", num_clips=None):
    return pair(single(output), HostSingle(RANGE, encoding), num_clips)


@pytest.mark.parametrize(
    ("encoding", "output", "num_clips"),
    [
        ("log", "clip", None),
        ("log", "sigmoid", None),
        ("linear", "clip", None),
        ("linear", "clip", 8),
        ("linear", "sigmoid", None),
        ("inverse", "sigmoid", 8),
    ],
)
def test_a_pair_is_exact_in_float(encoding, output, num_clips):
    graph = single(output)
    before = copy.deepcopy(graph.state_dict())
    made, codec = converted(encoding, output, num_clips)
    with torch.no_grad():
        code = graph(image())
        integer, fractional = made(image())
    depth_m = codec.decode_with(torch, torch.cat([integer, fractional], 1))
    assert integer.shape == fractional.shape == code.shape
    assert (codec.single.encode_with(torch, depth_m) - code).abs().max() < 1.1e-5  # what the logit spacing cuts off
    assert all(torch.equal(value, before[key]) for key, value in graph.state_dict().items())
    by_metre = (encoding, output, num_clips) == ("linear", "clip", None)
    assert codec.spacing == ("metres" if by_metre else "logit" if output == "sigmoid" else "uniform")
    assert codec.num_clips == (15 if by_metre else num_clips or 16)


@pytest.mark.parametrize("target", ["per-tensor-minmax", "per-channel", "symmetric-pow2"])
def test_both_sums_are_exact_in_int8(target):
    made, codec = converted("linear", "clip")
    quantized = calibrated(made, target, [image()]).eval()
    seen = {}
    for each in quantized.modules():
        if hasattr(each, "site"):
            each.register_forward_hook(lambda module, given, out: seen.__setitem__(module.site, out))
    with torch.no_grad():
        outputs = quantized(image())
    clips = seen["head.output"]
    position = torch.where(torch.arange(codec.num_clips).view(1, -1, 1, 1) % 2 == 1, 1 - clips, clips).sum(1, True)
    decoded = codec.decode_with(torch, torch.cat(outputs, 1))
    torch.testing.assert_close(decoded, position.clamp(codec.near_m, codec.far_m), rtol=0, atol=1e-5)
    layer = quantized.get_submodule("head.fractional")  # all its weights are one code, which is exact
    assert torch.equal(layer.weight_quantizer(layer.weight), layer.weight)


def test_clips_are_fused_where_the_target_says_so():
    made, _ = converted()
    sites = [site.name for site in placement(made, load_target("per-tensor-minmax")) if site.kind != "weight"]
    assert sites[-4:] == ["head.output", "head.carry_clip", "head.integer", "head.fractional"]
    outputs = [site for site in placement(made, load_target("per-tensor-minmax")) if site.kind == "output"]
    assert [site.name for site in outputs] == ["head.integer", "head.fractional"]


@pytest.mark.parametrize("output", ["clip", "sigmoid"])
def test_two_bytes_are_as_fine_as_sixteen(output):
    graph, host, drift_mm = single(output), HostSingle(RANGE, "log"), {}
    for name, (made, codec) in {
        "pair": pair(graph, host),
        "thermometer": thermometer(graph, host, 16),
        "single": (graph, host),
    }.items():
        quantized = calibrated(made, "per-tensor-minmax", [image()]).eval()
        set_enabled(quantized, False)
        set_enabled(quantized, True, kinds=["output"])
        codes = []
        with torch.no_grad():
            for each in (made, quantized):
                outputs = each(image())
                codes.append(outputs if isinstance(outputs, torch.Tensor) else torch.cat(outputs, 1))
        exact_m, found_m = (codec.decode_with(torch, each) for each in codes)
        drift_mm[name] = 1000 * float((found_m - exact_m).abs().mean())
        if name == "pair":
            assert not codec.carry_errors_with(torch, codes[1], exact_m).any()
            step_mm = torch.from_numpy(codec.step_mm(exact_m.numpy()))
            assert (1000 * (found_m - exact_m).abs() <= 0.75 * step_mm + 0.05).all()
    assert drift_mm["pair"] < 1.05 * drift_mm["thermometer"]
    assert drift_mm["pair"] < drift_mm["single"] / 8


def test_an_integer_that_calibration_saw_in_part_is_still_whole():
    """Calibrated up to the 6th of 16 clips, the step of ``integer`` is no whole part of a carry."""
    made, codec = converted()
    quantized = calibrated(made, "per-tensor-minmax", [image()]).eval()
    integer = quantizers(quantized)["head.integer"]
    integer.set_range(0.0, 6 / 15)
    with torch.no_grad():
        exact = torch.cat(made(image()), 1)
    seen = exact[:, :1] < 6.5 / 15
    set_enabled(quantized, False)
    set_enabled(quantized, True, kinds=["output"])
    with torch.no_grad():
        found = torch.cat(quantized(image()), 1)
    wrong = codec.carry_errors_with(torch, found, codec.decode_with(torch, exact))
    assert seen.float().mean() > 0.1
    assert not wrong[seen].any()


class Ending(nn.Module):
    """A convolution and whatever a network has behind it."""

    def __init__(self, behind):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)
        self.behind = behind
        nn.init.normal_(self.conv.weight, std=0.5)

    def forward(self, image):
        """Codes."""
        return self.behind(self.conv(image))


@pytest.mark.parametrize(
    "behind",
    [
        torch.sigmoid,
        lambda x: x.clamp(0, 1),
        lambda x: F.hardtanh(x, 0.0, 1.0),
        lambda x: x.sigmoid().squeeze(1).unsqueeze(1),
        lambda x: F.interpolate(torch.sigmoid(x), scale_factor=2, mode="nearest"),
        lambda x: torch.sigmoid(F.interpolate(x, scale_factor=2, mode="nearest")),
    ],
)
@pytest.mark.parametrize("convert", [pair, lambda graph, codec: thermometer(graph, codec, 8)])
def test_the_endings_of_other_networks_are_known(behind, convert):
    torch.manual_seed(0)
    network = Ending(behind).eval()
    graph = trace(network)
    made, codec = convert(graph, HostSingle(RANGE, "inverse"))
    given = torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        outputs, code = made(given), network(given)
    codes = outputs if isinstance(outputs, torch.Tensor) else torch.cat(outputs, 1)
    assert codes.shape[-2:] == code.shape[-2:]
    assert (codec.single.encode_with(torch, codec.decode_with(torch, codes)) - code).abs().max() < 1.1e-5


@pytest.mark.parametrize("convert", [Pair(), Thermometer(8)])
def test_a_target_that_does_not_fuse_clips_is_named(convert):
    fuses = load_target("per-tensor-minmax")
    fewer = tuple(each for each in fuses.fused_activations if each != "clip")
    interface = Interface.of_codes(InputLayout(32, 64, (0, 0, 0), (1, 1, 1)), HostSingle(RANGE))
    summaries = [
        convert(single(), Context(target, (), interface)).report.summary
        for target in (fuses, dataclasses.replace(fuses, fused_activations=fewer))
    ]
    assert ["does not fuse Clip" in each for each in summaries] == [False, True]


class SharedSigmoid(nn.Module):
    """One sigmoid for a gate and for the output."""

    def __init__(self):
        super().__init__()
        self.gate, self.conv, self.sigmoid = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 3, padding=1), nn.Sigmoid()

    def forward(self, image):
        """Codes."""
        return self.sigmoid(self.conv(image * self.sigmoid(self.gate(image))))


class MethodOfThatName(SharedSigmoid):
    """A module for the gate, and a method of the same name for the output."""

    def forward(self, image):
        """Codes."""
        return self.conv(image * self.sigmoid(self.gate(image))).sigmoid()


@pytest.mark.parametrize("kind", [SharedSigmoid, MethodOfThatName])
def test_a_sigmoid_that_is_used_elsewhere_stays_there(kind):
    torch.manual_seed(0)
    network = kind().eval()
    made, codec = pair(trace(network), HostSingle(RANGE))
    given = torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        depth_m = codec.decode_with(torch, torch.cat(made(given), 1))
        torch.testing.assert_close(codec.single.encode_with(torch, depth_m), network(given), rtol=0, atol=1.1e-5)


@pytest.mark.parametrize(
    "behind",
    [
        torch.tanh,
        lambda x: F.interpolate(torch.sigmoid(x), scale_factor=2, mode="bilinear"),
        lambda x: torch.sigmoid(x) + x.mean(),
        lambda x: x.clamp(0, 2),
    ],
)
def test_an_ending_that_cannot_be_converted_is_named(behind):
    with pytest.raises(ConfigError, match="the network ends in .*, expected a convolution to one channel"):
        pair(trace(Ending(behind).eval()), HostSingle(RANGE))


def test_only_a_single_head_can_be_converted():
    network = spread_network(IntegerFractionalHead)
    interface = Interface.of_codes(InputLayout(8, 8, (0, 0, 0), (1, 1, 1)), network.codec.host)
    with pytest.raises(ConfigError, match="expected a network that returns a single code, received integer/fraction"):
        Pair().requires(trace(network), Context(load_target("per-tensor-minmax"), (), interface))
    with pytest.raises(ConfigError, match="num_clips: received 1, expected 2 to 32"):
        Pair(1)


def test_the_outputs_are_named_integer_and_fractional():
    interface = Interface.of_codes(InputLayout(64, 96, (0, 0, 0), (1, 1, 1)), HostSingle(RANGE))
    result = Pair()(single(), Context(load_target("per-tensor-minmax"), (), interface))
    assert result.interface.outputs == OutputLayout(("integer", "fractional"), (1, 1))
    assert "pair x 16" in result.report.summary


def test_a_head_by_its_name():
    assert head_pass("single") is None
    assert head_pass("pair") == Pair()
    assert head_pass("thermometer") == Thermometer(8)
    assert head_pass("thermometer:16") == Thermometer(16)
    for wrong in ("thermometer:x", "pairs", "pair:2", "thermometer:"):
        with pytest.raises(ConfigError, match="there is no head|num_codes"):
            head_pass(wrong)
    robust = with_head(load_recipe("robust"), "pair")
    assert [each.name for each in robust.passes] == [
        "fold",
        "equalize",
        "split_channels",
        "pair",
        "adaround",
        "bias_correct",
    ]
    assert with_head(robust, "pair") == with_head(robust, None) == robust
    with pytest.raises(ConfigError, match="has the pass pair, but the head thermometer:8 is requested"):
        with_head(robust, "thermometer:8")


@pytest.mark.parametrize("other", ["logits", "thermometer", "separate_outputs"])
def test_what_changes_the_same_outputs_is_refused(other):
    with pytest.raises(ConfigError, match=f"pair returns integer and fractional .*, and {other} would"):
        Recipe.from_entries(["fold", "pair", other])
