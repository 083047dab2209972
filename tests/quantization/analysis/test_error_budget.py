"""The error budget: sources cover every quantizer, numbers equal plain evaluations, stages are named."""

import io

import pytest
from rich.console import Console
from torch import nn

from depth_distill.models import DepthNet
from depth_distill.quantization.analysis.error_budget import error_budget, error_sources
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers
from tests.quantization.networks import folded_depth_net
from tests.quantization.small_case import SITES, TARGET, drift, quantized_net, sabotaged, switched

KINDS = ("weights", "activations", "network input", "output codes")
DECODER_AND_HEAD = [*(f"stage decoder.blocks.{level}" for level in range(5)), "stage head"]


def stages(sources):
    return {name: sites for name, sites in sources.items() if name.startswith("stage ")}


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv2_100"])
def test_kinds_and_stages_are_partitions(encoder):
    quantized = fake_quantize(folded_depth_net(encoder), TARGET)
    sources = error_sources(quantized)
    by_kind = [sources[name] for name in KINDS]
    assert set().union(*by_kind) == set(quantizers(quantized))
    assert sum(map(len, by_kind)) == len(quantizers(quantized))
    by_stage = list(stages(sources).values())
    assert set().union(*by_stage) == sources["weights"] | sources["activations"]
    assert sum(map(len, by_stage)) == len(sources["weights"] | sources["activations"])
    assert sources["network input"] == {"image"}
    assert sources["output codes"] == {"head.output"}
    assert sources["head pre-activation"] == {"head.conv"}


def test_stages_of_resnet18():
    found = stages(error_sources(fake_quantize(folded_depth_net("resnet18"), TARGET)))
    encoder = ["stage encoder.stem", *(f"stage encoder.layer{level}" for level in (1, 2, 3, 4))]
    assert list(found) == [*encoder, *DECODER_AND_HEAD]
    assert found["stage encoder.stem"] == {"encoder.conv1.weight", "encoder.act1"}
    assert {"encoder.layer2.0.downsample.0.weight", "encoder.layer2.1.act2"} <= found["stage encoder.layer2"]
    assert "decoder.blocks.2.cat" in found["stage decoder.blocks.2"]
    assert found["stage head"] == {"head.conv.weight", "head.conv"}


def test_stages_of_mobilenetv2():
    found = stages(error_sources(fake_quantize(folded_depth_net("mobilenetv2_100"), TARGET)))
    encoder = ["stage encoder.stem", *(f"stage encoder.blocks.{level}" for level in range(7))]
    assert list(found) == [*encoder, *DECODER_AND_HEAD]


def test_a_stem_of_several_layers_is_one_stage_and_regnets_stages_are_found():
    deep = stages(error_sources(fake_quantize(fold(trace(DepthNet("resnet10t"))), TARGET)))
    assert list(deep)[:2] == ["stage encoder.stem", "stage encoder.layer1"]
    regnet = stages(error_sources(fake_quantize(fold(trace(DepthNet("regnetx_002"))), TARGET)))
    assert list(regnet)[:5] == ["stage encoder.stem", *(f"stage encoder.s{level}" for level in (1, 2, 3, 4))]


def test_sources_without_a_quantizer_are_left_out():
    sources = error_sources(quantized_net(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Sigmoid())))
    assert set(sources) == {"weights", "activations", "network input", "output codes", "stage 0"}
    assert sources["stage 0"] == {"0.weight", "0"}


def test_the_numbers_are_those_of_plain_evaluations():
    quantized, scorer = quantized_net(), drift()
    budget = error_budget(quantized, scorer, progress=False)
    sources = error_sources(quantized)
    assert [item.name for item in budget.items] == list(sources)
    assert budget.float_metrics == {"abs_rel": 0.0, "worst": 0.0}
    assert budget.integer_metrics == scorer(switched(quantized, SITES))
    for item in budget.items:
        assert item.quantizers == len(sources[item.name])
        assert item.alone == scorer(switched(quantized, sources[item.name])), item.name
        assert item.leave_one_out == scorer(switched(quantized, set(SITES) - sources[item.name])), item.name


def test_a_broken_weight_is_the_weights_and_its_stages_fault():
    model = sabotaged("conv1")
    budget = error_budget(quantized_net(model), drift(model), progress=False)
    items = {item.name: item for item in budget.items}
    everything = budget.integer_metrics["abs_rel"]
    for guilty in ("weights", "stage conv1"):
        assert items[guilty].alone["abs_rel"] > 0.7 * everything
        assert items[guilty].leave_one_out["abs_rel"] < 0.3 * everything
    for innocent in ("activations", "network input", "output codes", "stage conv2", "stage fuse"):
        assert items[innocent].alone["abs_rel"] < 0.3 * everything
        assert items[innocent].leave_one_out["abs_rel"] > 0.7 * everything


def test_output_codes_alone_cost_half_a_step_at_most():
    quantized, scorer = quantized_net(), drift()
    items = {item.name: item for item in error_budget(quantized, scorer, progress=False).items}
    step = float(quantizers(quantized)["output"].scale)
    lowest = min(float(codes.min()) for codes in scorer.expected)
    assert 0 < items["output codes"].alone["worst"] <= step / 2 / lowest * (1 + 1e-6)


def test_the_table_lies_between_nothing_and_everything():
    budget = error_budget(quantized_net(), drift(), progress=False)
    console = Console(file=io.StringIO(), width=120)
    console.print(budget.table("a title"))
    rows = console.file.getvalue().splitlines()
    assert "a title" in rows[0]
    numbered = [row for row in rows if "│" in row]
    assert "nothing (float)" in numbered[0]
    assert "everything" in numbered[-1]
    assert f"{budget.integer_metrics['abs_rel']:.4f}" in numbered[-1]
    assert len(numbered) == len(budget.items) + 2
    (weights,) = (row for row in numbered if "weights" in row)
    item = budget.items[0]
    assert weights.index(f"{item.alone['abs_rel']:.4f}") < weights.rindex(f"{item.leave_one_out['abs_rel']:.4f}")
    assert "drift" not in console.file.getvalue()  # nothing measured it


def test_plain_data():
    budget = error_budget(quantized_net(), drift(), progress=False).to_dict()
    assert set(budget) == {"float_metrics", "integer_metrics", "items", "metric", "verdict"}
    assert set(budget["items"][0]) == {"name", "quantizers", "alone", "leave_one_out"}
