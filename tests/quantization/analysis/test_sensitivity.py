"""Sensitivity finds a broken layer and agrees with plain evaluations; the fast ranking reports its agreement."""

import dataclasses
import io
import math
from collections.abc import Sequence

import pytest
import torch
from rich.console import Console
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.analysis.error_budget import error_budget
from depth_distill.quantization.analysis.sensitivity import fast_sensitivity, sensitivity, sensitivity_settings
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers
from depth_distill.quantization.simulate.npu_operators import npu_operators
from depth_distill.quantization.simulate.ptq import quantize_post_training
from tests.quantization.small_case import (
    LAYERS,
    SITES,
    TARGET,
    Codes,
    drift,
    images,
    quantized_net,
    sabotaged,
    switched,
)


def printed(table):
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("layer", ["conv1", "fuse"])
def test_the_broken_layer_comes_first(layer):
    model = sabotaged(layer)
    found = sensitivity(quantized_net(model), drift(model), progress=False)
    assert found.layers[0].name == layer
    assert found.layers[0].degradation > 5 * found.layers[1].degradation
    reliefs = {each.name: each.recovery for each in found.layers}
    assert reliefs[layer] > 0.5 * found.integer_metrics["abs_rel"]
    assert max(reliefs, key=reliefs.get) == layer


def test_the_numbers_are_those_of_plain_evaluations():
    quantized, scorer = quantized_net(), drift()
    found = sensitivity(quantized, scorer, progress=False)
    assert {each.name for each in found.layers} == set(LAYERS)
    assert found.float_metrics == {"abs_rel": 0.0, "worst": 0.0}
    assert found.integer_metrics == scorer(switched(quantized, SITES))
    by_name = {each.name: each for each in found.layers}
    conv1 = by_name["conv1"]
    assert conv1.alone == scorer(switched(quantized, {"act", "conv1.weight", "act1"}))
    assert conv1.leave_one_out == scorer(switched(quantized, set(SITES) - {"conv1.weight"}))
    assert conv1.weights == 8 * 8 * 9
    for each in found.layers:
        assert each.degradation == each.alone["abs_rel"]
        assert each.recovery == found.integer_metrics["abs_rel"] - each.leave_one_out["abs_rel"]
    increases = [each.degradation for each in found.layers]
    assert increases == sorted(increases, reverse=True)


def test_two_settings_a_layer_and_the_two_ends():
    settings = sensitivity_settings(npu_operators(quantized_net()))
    assert len(settings) == 2 * len(LAYERS) + 2
    assert settings["float"] == frozenset()
    assert settings["integer"] == set(SITES)
    with pytest.raises(ConfigError, match="no quantized layers"):
        sensitivity_settings(npu_operators(fake_quantize(trace(nn.Sequential(nn.Sigmoid())), TARGET)))


def test_it_resumes(tmp_path):
    quantized = quantized_net()
    first = sensitivity(quantized, drift(), tmp_path, progress=False)
    scorer = drift()
    assert sensitivity(quantized, scorer, tmp_path, progress=False) == first
    assert scorer.measured == []


def test_the_table_has_a_row_a_layer_and_the_bands_that_are_asked_for():
    class WithBands(Codes):
        names = ("abs_rel", "abs_rel_0.5-2m")

    model = sabotaged("conv2")
    found = sensitivity(quantized_net(model), WithBands(images(), trace(model)), progress=False)
    rows = printed(found.table("title", ["0.5-2m"])).splitlines()
    assert "abs_rel_0.5-2m" in "".join(rows[:4])
    assert any("none (float)" in row and "0.0000" in row for row in rows)
    line = next(row for row in rows if "conv2" in row)
    worst = found.layers[0]
    for number in ("576", f"{worst.alone['abs_rel']:.4f}", f"{worst.degradation:+.4f}", f"{worst.recovery:+.4f}"):
        assert number in line


def test_plain_data():
    found = sensitivity(quantized_net(), drift(), progress=False).to_dict()
    assert set(found) == {"float_metrics", "integer_metrics", "substituted_metrics", "layers", "metric", "verdict"}
    assert set(found["layers"][0]) == {"name", "weights", "alone", "leave_one_out", "degradation", "recovery"}


def test_sqnr_is_that_of_the_layers_own_output():
    quantized = quantized_net()
    found = fast_sensitivity(quantized, drift(), progress=False)
    outputs = {}
    for name, setting in {"float": (), "integer": ("act", "conv1.weight", "act1")}.items():
        network = switched(quantized, setting)
        quantizers(network)["act1"].register_forward_hook(
            lambda _, __, out, name=name: outputs.setdefault(name, []).append(out)
        )
        with torch.inference_mode():
            for batch in images():
                network(batch)
    signal = sum(float((each - each.mean()).square().sum()) for each in outputs["float"])
    pairs = zip(outputs["float"], outputs["integer"], strict=True)
    noise = sum(float((one - other).square().sum()) for one, other in pairs)
    assert found.sqnr_db["conv1"] == pytest.approx(10 * math.log10(signal / noise))


def test_the_fast_ranking_finds_the_broken_layer_too():
    model = sabotaged("conv1")
    found = fast_sensitivity(quantized_net(model), drift(model), progress=False)
    assert next(iter(found.sqnr_db)) == "conv1"
    assert list(found.sqnr_db.values()) == sorted(found.sqnr_db.values())
    assert found.top == 5  # of five layers
    assert found.images == 2


class Chain(nn.Sequential):
    """Layers of one width, each with a much coarser weight than the one before."""

    def __init__(self):
        torch.manual_seed(0)
        layers = []
        for factor in (3.0, 12.0, 48.0, 200.0):
            conv = nn.Conv2d(3 if not layers else 8, 8, 1)
            with torch.no_grad():
                nn.init.kaiming_normal_(conv.weight)
                conv.weight[0] *= factor
                conv.bias[0] = -1e3 * factor  # the ReLU silences that channel
            layers += [conv, nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(8, 1, 1), nn.Sigmoid())


def test_agreement_is_spearmans_of_the_first_batch():
    model, batches = Chain(), images(4, 2)
    quantized = quantized_net(model)
    found = fast_sensitivity(quantized, drift(model, batches), progress=False)
    first = sensitivity(quantized, drift(model, batches[:1]), progress=False)
    exact, fast = [each.name for each in first.layers], list(found.sqnr_db)
    # 1 - 6 sum d^2 / (n (n^2 - 1)), d the difference of a layer's ranks.
    squares = sum((exact.index(name) - fast.index(name)) ** 2 for name in fast)
    assert found.agreement == pytest.approx(1 - 6 * squares / (5 * 24))
    assert set(fast[:2]) == set(exact[:2]) == {"4", "6"}  # the two coarsest
    assert found.agreement >= 0.8
    assert found.images == 4


def test_substituted_activations():
    target = dataclasses.replace(TARGET, substitutions={"Sigmoid": "hard_sigmoid"})
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid()))
    batch = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 4
    quantized = quantize_post_training(graph, target, [batch], False)

    class Scorer:
        images: Sequence[torch.Tensor] = (batch,)
        names = ("abs_rel",)

        def measure(self, position, codes):
            return (codes - graph(batch)).abs().flatten(1).mean(1, keepdim=True).double().detach()

        def summarize(self, rows):
            return {"abs_rel": float(rows.mean())}

    found = sensitivity(quantized, Scorer(), progress=False)
    # FP32 is FP32; the cost of a layer does not include that of the substitution.
    assert found.float_metrics["abs_rel"] < 1e-6
    assert found.integer_metrics["abs_rel"] > 0.01
    assert all(each.alone["abs_rel"] > 0.01 for each in found.layers)
    assert all(abs(each.degradation) < 0.01 for each in found.layers)
    budget = error_budget(quantized, Scorer(), progress=False)
    item = next(each for each in budget.items if each.name == "substituted activations")
    assert item.alone["abs_rel"] > 0.9 * budget.integer_metrics["abs_rel"]
    assert item.leave_one_out["abs_rel"] < 0.5 * budget.integer_metrics["abs_rel"]
