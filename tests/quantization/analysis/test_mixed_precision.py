"""Mixed precision: rounding, sizes computed by hand, refusals, and a search that keeps no unnecessary layer."""

import copy
import dataclasses
import io
import itertools
import random

import pytest
import torch
from rich.console import Console

from depth_distill.errors import ConfigError
from depth_distill.quantization.analysis.mixed_precision import (
    MixedNetwork,
    MixedPrecision,
    check_high_precision_format,
    layers_above,
    megabytes,
    search_mixed_precision,
    set_precision,
)
from depth_distill.quantization.analysis.sensitivity import LayerSensitivity, Sensitivity, sensitivity
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.calibrate import calibrate
from depth_distill.quantization.simulate.fake_quantize import preserve_quantizer_state, quantizers, set_enabled
from depth_distill.quantization.simulate.npu_operators import npu_operators
from depth_distill.quantization.target.target import load_target
from tests.quantization.small_case import (
    LAYERS,
    SITES,
    TARGET,
    SmallNet,
    drift,
    images,
    quantized_net,
    sabotaged,
)

WEIGHTS = {"stem": 216, "conv1": 576, "conv2": 576, "fuse": 1152, "head": 72}
BIASES = {"stem": 8, "conv1": 8, "conv2": 8, "fuse": 8, "head": 1}


def ranking(*names):
    """Sensitivities by which the search adds layers in this order."""
    layers = (
        LayerSensitivity(name, WEIGHTS[name], {}, {}, degradation=0.0, recovery=1.0 - 0.1 * place)
        for place, name in enumerate(names)
    )
    return Sensitivity({"abs_rel": 0.03}, {"abs_rel": 0.2}, tuple(layers))


def high_precision_layers(network):
    return frozenset(name for name in LAYERS if quantizers(network)[f"{name}.weight"].in_half)


def search(score, target_abs_rel=0.05, order=LAYERS, quantized=None, **arguments):
    """The search with a made-up score of the set of layers; also returns the sets in the order they came."""
    seen = []

    def evaluate(network):
        seen.append(high_precision_layers(network))
        return {"abs_rel": score(seen[-1])}

    found = search_mixed_precision(
        quantized or quantized_net(), evaluate, ranking(*order), images(), target_abs_rel, **arguments
    )
    return found, seen


def in_half(network):
    return {site for site, each in quantizers(network).items() if each.in_half}


def test_without_high_precision_layers_it_is_the_integer_network():
    quantized = quantized_net()
    mixed = set_precision(quantized, [])
    assert in_half(mixed) == set()
    image = images()[0]
    assert torch.equal(mixed(image), quantized(image))


def test_what_is_in_half_precision():
    quantized = quantized_net()
    assert in_half(set_precision(quantized, ["conv1"])) == {"conv1.weight"}
    assert in_half(set_precision(quantized, ["stem", "fuse"])) == {
        "image", "stem.weight", "act2", "cat", "fuse.weight",
    }  # fmt: skip
    assert in_half(set_precision(quantized, LAYERS)) == set(SITES)
    assert in_half(quantized) == set()


def test_a_network_in_half_precision_is_that_of_rounded_tensors():
    mixed = set_precision(quantized_net(), LAYERS)
    image = images()[0]
    float_codes, codes = trace(SmallNet())(image), mixed(image)
    assert torch.equal(codes, codes.half().float())
    assert 0 < (codes - float_codes).abs().max() < 2e-3  # 2^-11 at each of 14 places


def test_16_bits_are_finer_than_8_by_256():
    scorer, quantized = drift(), quantized_net()
    high_precision = ("int16", "fp16")
    errors = {each: scorer(set_precision(quantized, LAYERS, each))["abs_rel"] for each in high_precision}
    errors["int8"] = scorer(quantized)["abs_rel"]
    assert errors["int16"] == pytest.approx(errors["int8"] / 256, rel=0.5)  # errors are random, their steps are not
    assert 0 < errors["fp16"] < errors["int8"] / 10


def test_formats_and_ranges_of_16_bits():
    quantized = quantized_net()
    mixed = quantizers(set_precision(quantized, ["conv1", "conv2"], "int16"))
    dtypes = {site: each.tensor_format.dtype for site, each in mixed.items()}
    assert dtypes["conv1.weight"] == dtypes["conv2.weight"] == "int16"
    assert dtypes["act1"] == dtypes["conv2"] == "uint16"
    assert dtypes["act"] == "uint8"
    assert dtypes["fuse.weight"] == "int8"
    for site, before in quantizers(quantized).items():
        assert (mixed[site].low, mixed[site].high) == (before.low, before.high)
    assert quantizers(quantized)["act1"].tensor_format.dtype == "uint8"


def test_half_precision_overflows_where_hardware_would():
    model = SmallNet()
    with torch.no_grad():
        model.conv1.weight *= 3e4  # activations beyond 65504, the largest finite half; weights are not
        model.conv2.weight /= 3e4
    quantized = quantized_net(model)
    assert quantized(images()[0]).isfinite().all()
    mixed = set_precision(quantized, ["conv1", "conv2"])
    seen = []
    quantizers(mixed)["act1"].register_forward_hook(lambda _, __, out: seen.append(out))
    mixed(images()[0])
    assert seen[0].isinf().any()
    int16 = set_precision(quantized, ["conv1", "conv2"], "int16")
    assert drift(model)(int16)["abs_rel"] < 0.01  # integers have scales


def test_the_name_of_a_layer_that_is_none():
    with pytest.raises(ConfigError, match="no quantized layer 'con1'; did you mean 'conv1'"):
        set_precision(quantized_net(), ["con1"])


def test_sizes_by_hand():
    operators = npu_operators(quantized_net())
    weights, biases = sum(WEIGHTS.values()), sum(BIASES.values())
    assert megabytes(operators, []) == pytest.approx((weights + 4 * biases) / 1e6)
    assert megabytes(operators, LAYERS, "fp16") == pytest.approx((2 * weights + 2 * biases) / 1e6)
    assert megabytes(operators, LAYERS, "int16") == pytest.approx((2 * weights + 4 * biases) / 1e6)
    assert megabytes(operators, ["head"]) == pytest.approx((weights + 72 + 4 * biases - 2) / 1e6)


def profile(folder, **capabilities):
    text = TARGET.source.read_text()
    for key, value in capabilities.items():
        assert f"  {key}: unconfirmed" in text
        text = text.replace(f"  {key}: unconfirmed", f'  {key}: "{value}"')
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_target(path)


@pytest.mark.parametrize(
    ("high_precision", "capability"), [("fp16", "fp16"), ("int16", "int16"), ("fp16", "per_layer_precision")]
)
def test_a_target_without_the_format_is_refused_with_the_line_of_its_profile(tmp_path, high_precision, capability):
    target = profile(tmp_path, **{capability: "no"})
    lines = target.source.read_text().splitlines()
    number = next(index for index, line in enumerate(lines, start=1) if line.strip().startswith(f"{capability}:"))
    with pytest.raises(ConfigError) as error:
        check_high_precision_format(target, high_precision)
    message = str(error.value)
    assert message.startswith(f"the target does not support mixed precision with {high_precision.upper()}: ")
    assert message.endswith(f"mine.yaml:{number}: capabilities.{capability}: no")


def test_a_built_in_profile_that_cannot():
    with pytest.raises(ConfigError, match=r"symmetric-pow2\.yaml:\d+: capabilities\.fp16: no"):
        check_high_precision_format(load_target("symmetric-pow2"), "fp16")
    without_file = dataclasses.replace(load_target("symmetric-pow2"), source=None)
    with pytest.raises(ConfigError, match=r"symmetric-pow2: capabilities\.fp16: no"):
        check_high_precision_format(without_file, "fp16")


def test_what_is_possible_or_unconfirmed_is_allowed(tmp_path):
    check_high_precision_format(TARGET, "fp16")
    check_high_precision_format(TARGET, "int16")
    check_high_precision_format(profile(tmp_path, fp16="no"), "int16")


def test_layers_above_the_threshold():
    increases = {"stem": 0.5, "fuse": 0.021, "conv1": 0.019, "head": -0.1}
    layers = tuple(
        LayerSensitivity(name, 1, {"abs_rel": 0.03 + value}, {}, 0.0, 0.0) for name, value in increases.items()
    )
    found = Sensitivity({"abs_rel": 0.03}, {"abs_rel": 0.2}, layers)
    assert layers_above(found) == ("stem", "fuse")
    assert layers_above(found, 0.1) == ("stem",)
    assert layers_above(found, 1.0) == ()


def test_layers_above_the_threshold_are_not_blamed_for_what_the_target_substitutes():
    target = dataclasses.replace(TARGET, substitutions={"Sigmoid": "hard_sigmoid"})
    found = sensitivity(quantized_net(target=target), drift(), progress=False)
    assert found.float_metrics["abs_rel"] == 0
    assert found.baseline["abs_rel"] > 0.005
    costs = {each.name: each.alone["abs_rel"] - found.baseline["abs_rel"] for each in found.layers}
    assert {each.name: each.degradation for each in found.layers} == pytest.approx(costs)
    assert layers_above(found, max(costs.values()) + 1e-6) == ()


def test_pure_int8_already_suffices():
    found, seen = search(lambda high_precision: 0.04)
    assert found.reached
    assert found.chosen.layers == ()
    # Nothing else but the points of the curve: 1, 2, 4 and all layers.
    assert [len(each) for each in seen] == [0, 1, 2, 4, 5]
    assert found.curve == (found.chosen,)
    assert found.statement == "pure INT8 already suffices for abs_rel 0.05: abs_rel 0.0400"
    assert found.chosen.megabytes == found.int8_mb == pytest.approx(0.002724)
    assert found.high_precision_mb == pytest.approx(0.00525)


def test_the_target_itself_is_good_enough():
    assert search(lambda high_precision: 0.05)[0].chosen.layers == ()


def test_a_target_out_of_reach():
    found, _ = search(lambda high_precision: 0.2 - 0.015 * len(high_precision) if len(high_precision) < 3 else 0.19)
    assert not found.reached
    assert set(found.chosen.layers) == {"stem", "conv1"}  # the best of what was scored
    assert found.statement == (
        "abs_rel 0.05 cannot be reached: not with all layers in FP16, and the best found is abs_rel 0.1700; FP32 has "
        "0.0300"
    )


def test_nothing_is_searched_where_all_layers_together_miss_the_target():
    _, seen = search(lambda high_precision: 0.2 - 0.01 * len(high_precision))
    assert [len(each) for each in seen] == [0, 5, 1, 2, 4]  # both ends, and points of the curve


def test_layers_come_in_the_order_of_relief_until_the_target_is_reached():
    found, seen = search(
        lambda high_precision: 0.2 - 0.06 * len(high_precision), order=("head", "conv1", "fuse", "stem", "conv2")
    )
    assert [len(each) for each in seen[:5]] == [0, 5, 1, 2, 3]
    assert seen[4] == {"head", "conv1", "fuse"}
    assert found.chosen.layers == ("head", "conv1", "fuse")
    assert found.statement.startswith("3 layers in FP16 reach abs_rel 0.05: abs_rel 0.0200, 0.00 MB")


def test_equal_relief_goes_by_what_a_layer_costs_alone():
    layers = tuple(LayerSensitivity(name, 1, {}, {}, cost, 0.0) for name, cost in (("stem", 0.1), ("fuse", 0.3)))
    found = search_mixed_precision(
        quantized_net(),
        lambda network: {"abs_rel": 0.04 if high_precision_layers(network) else 0.1},
        Sensitivity({"abs_rel": 0.03}, {"abs_rel": 0.1}, layers),
        images(),
        0.05,
    )
    assert found.chosen.layers == ("fuse",)
    assert found.statement.startswith("1 layer in FP16 reaches abs_rel 0.05: ")


def test_pruning_leaves_the_minimal_set():
    needed = {"conv2", "head"}
    # The first three by sensitivity help nobody: they come along and have to go again.
    found, seen = search(
        lambda high_precision: 0.04 if needed <= high_precision else 0.1,
        order=("conv1", "fuse", "conv2", "stem", "head"),
    )
    assert set(found.chosen.layers) == needed
    assert frozenset(LAYERS) in seen
    assert len(seen) == len(set(seen))  # none was evaluated twice


def test_every_layer_that_is_kept_is_needed():
    generator = random.Random(0)
    for _ in range(3):
        gains = {name: generator.uniform(0.0, 0.05) for name in LAYERS}
        found, _ = search(
            lambda high_precision, gains=gains: 0.15 - sum(gains[name] for name in high_precision), target_abs_rel=0.08
        )
        assert found.reached
        for name in found.chosen.layers:
            rest = set(found.chosen.layers) - {name}
            assert 0.15 - sum(gains[other] for other in rest) > 0.08
        assert found.chosen.abs_rel == pytest.approx(0.15 - sum(gains[name] for name in found.chosen.layers))


def test_the_curve_is_the_pareto_front_of_all_that_was_seen():
    generator = random.Random(1)
    subsets = (each for size in range(6) for each in itertools.combinations(LAYERS, size))
    scores = {frozenset(each): generator.uniform(0.1, 0.2) for each in subsets}
    steps = []
    found, _ = search(scores.__getitem__, target_abs_rel=0.11, on_step=steps.append)
    assert found.curve[0].layers == ()
    for smaller, larger in itertools.pairwise(found.curve):
        assert smaller.megabytes < larger.megabytes
        assert smaller.abs_rel > larger.abs_rel
    for step in steps:
        assert any(each.megabytes <= step.megabytes and each.abs_rel <= step.abs_rel for each in found.curve)
    assert found.chosen in found.curve


def test_every_assignment_is_calibrated_and_the_ranges_are_those_of_the_float_network():
    quantized = quantized_net()
    for each in quantizers(quantized).values():
        if each.kind != "weight":
            each.set_range(-100.0, 100.0)  # ranges of before are not used
    expected = calibrate(quantized, images(), progress=False).ranges
    checked = []

    def evaluate(network):
        with preserve_quantizer_state(network):
            again = calibrate(network, images(), progress=False)
        assert again.ranges == expected  # whatever is in half, a second calibration finds the same
        for site, (low, high) in expected.items():
            each = quantizers(network)[site]
            assert (each.low, each.high) == (min(low, 0.0), max(high, 0.0))
        checked.append(high_precision_layers(network))
        return {"abs_rel": 0.2}

    search_mixed_precision(quantized, evaluate, ranking(*LAYERS), images(), 0.05)
    assert len(checked) == 5  # none, all, and the first 1, 2 and 4
    assert quantizers(quantized)["act"].high == 100.0


def test_the_targets_own_calibrator_is_used():
    def evaluate(network):
        for site, (_, high) in expected.items():
            assert quantizers(network)[site].high == pytest.approx(max(high, 0.0))
        return {"abs_rel": 0.01}

    quantized = quantized_net()
    expected = calibrate(quantized, images(), "moving_average", progress=False).ranges
    assert expected["act"] != calibrate(quantized, images(), progress=False).ranges["act"]
    search_mixed_precision(quantized, evaluate, ranking("stem"), images(), 0.05, calibrator="moving_average")


def test_the_network_is_not_changed():
    quantized = quantized_net()
    set_enabled(quantized, False, ["act"])
    before = copy.deepcopy(quantized.state_dict())
    search(lambda high_precision: 0.2, quantized=quantized)
    assert in_half(quantized) == set()
    torch.testing.assert_close(quantized.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("target_abs_rel", [0.0, -0.1, float("nan")])
def test_a_target_that_makes_no_sense(target_abs_rel):
    with pytest.raises(ConfigError, match="target_abs_rel must be positive, received"):
        search(lambda high_precision: 0.1, target_abs_rel=target_abs_rel)


def test_a_network_whose_output_is_infinite_is_never_the_best():
    found, _ = search(lambda high_precision: 0.1 if not high_precision else float("inf"))
    assert found.chosen.layers == ()
    assert len(found.curve) == 1


@pytest.mark.parametrize("high_precision", ["fp16", "int16"])
def test_the_layer_that_was_broken_is_the_one_that_is_chosen(high_precision):
    model = sabotaged("conv1")
    quantized, scorer = quantized_net(model), drift(model)
    found = search_mixed_precision(
        quantized, scorer, sensitivity(quantized, scorer, progress=False), images(), 0.1, high_precision
    )
    assert scorer(quantized)["abs_rel"] > 0.1
    assert found.chosen.layers == ("conv1",)
    assert found.chosen.abs_rel == scorer(set_precision(quantized, ["conv1"], high_precision))["abs_rel"]
    assert found.statement.startswith(f"1 layer in {high_precision.upper()} reaches abs_rel 0.1: ")


def test_the_table_marks_what_was_chosen():
    curve = (MixedNetwork((), 0.06, 1.0), MixedNetwork(("head",), 0.045, 1.25))
    found = MixedPrecision("fp16", 0.05, curve[1], True, curve, 0.03, 1.0, 2.0)
    console = Console(file=io.StringIO(), width=100)
    console.print(found.table("a title"))
    printed = " ".join(console.file.getvalue().split())
    assert "0 │ 1.00 │ 0.0600 │ 2.000 │" in printed
    assert "1 * │ 1.25 │ 0.0450 │ 1.500 │ head" in printed
    assert "1 layer in FP16 reaches abs_rel 0.05: abs_rel 0.0450, 1.25 MB" in printed
    assert found.to_dict()["statement"] == found.statement
    assert found.to_dict()["curve"][1] == {"layers": ("head",), "abs_rel": 0.045, "megabytes": 1.25}
