"""Equalization: same function, equal ranges, and perturbed scales are undone."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.channel_groups import channel_groups
from depth_distill.quantization.graph.trace import calls_by_module, trace
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.passes.equalize import channel_ranges, equalize
from depth_distill.quantization.passes.replace_relu6 import replace_relu6 as replaced_relu6
from depth_distill.quantization.passes.stress import perturb_channel_scales
from depth_distill.quantization.preparation import Preparer, structure_only
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.target.target import load_target
from tests.quantization.networks import (
    assert_same_function,
    assert_untouched,
    folded_depth_net,
    image,
    sqnr_db,
    state_of,
    with_integer_weights,
)

ENCODERS = [
    "resnet18",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_lite0",
    "repvgg_a0",
    "mnasnet_100",
    "regnetx_004",
]


def chain(activation=nn.ReLU):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), activation(), nn.Conv2d(8, 8, 3, padding=1), activation()]
    return nn.Sequential(*layers, nn.Conv2d(8, 2, 3, padding=1)).double()


@pytest.mark.parametrize(
    ("encoder", "activation"),
    [*((encoder, "relu") for encoder in ENCODERS), ("resnet18", "elu"), ("mnasnet_100", "elu")],
)
def test_every_supported_network_keeps_its_function_and_gains(encoder, activation):
    graph_module = perturb_channel_scales(folded_depth_net(encoder, activation), sigma=0.8).graph_module
    before = state_of(graph_module)
    result = equalize(graph_module, max_iterations=40)  # most of the gain, in a tenth of the time
    assert_same_function(graph_module, result.graph_module, image())
    assert_untouched(graph_module, before)
    names = [name for name in calls_by_module(graph_module) if isinstance(graph_module.get_submodule(name), nn.Conv2d)]
    assert [layer.name for layer in result.report.layers] == names
    free = [layer for layer in result.report.layers if layer.name not in result.report.pinned]
    mean_before, mean_after = (
        torch.tensor([getattr(layer, f"outputs_{when}") for layer in free]).log().mean() for when in ("before", "after")
    )
    assert mean_after < mean_before - 0.5  # sigma 0.8 alone puts the largest of 64 channels 1.9 above the mean


# Random weights let errors grow with depth: at 8 bits a random MobileNet is all noise, at 12 it is as good as ResNet18.
@pytest.mark.parametrize(
    ("encoder", "replace_relu6", "bits"),
    [("resnet18", False, 8), pytest.param("mobilenetv2_100", True, 12, marks=pytest.mark.slow)],
)
def test_stress_is_undone(encoder, replace_relu6, bits):
    graph_module = folded_depth_net(encoder)
    if replace_relu6:
        graph_module, _ = replaced_relu6(graph_module)
    stressed = perturb_channel_scales(graph_module, sigma=1.0).graph_module
    plain, undone = equalize(graph_module), equalize(stressed)
    assert plain.report.converged
    assert undone.report.converged
    networks = (graph_module, stressed, plain.graph_module, undone.graph_module)
    before, naive, best, after = (sqnr_db(graph_module, with_integer_weights(each, bits), image()) for each in networks)
    assert naive < before - 12
    assert best > before
    # As good or better. Ranges are equal, but other weights round up: random networks differ by 2 dB either way.
    assert after > best - 2.5


def test_the_criterion_has_one_minimum():
    graph_module = trace(chain())
    results = [equalize(graph_module), equalize(perturb_channel_scales(graph_module, sigma=2.0).graph_module)]
    for name in ("0", "2", "4"):
        weights = [result.graph_module.get_submodule(name).weight.abs() for result in results]
        # The scale of a whole tensor is free.
        relative = [(weight / weight.max()).amax((1, 2, 3)) for weight in weights]
        torch.testing.assert_close(relative[0], relative[1], rtol=0.02, atol=0)


def test_ranges_of_a_chain_become_equal():
    result = equalize(perturb_channel_scales(trace(chain()), sigma=1.5).graph_module)
    middle = result.report.layers[1]
    assert middle.name == "2"
    assert max(middle.outputs_before, middle.inputs_before) > 3
    assert max(middle.outputs_after, middle.inputs_after) < 1.5


def test_a_channel_of_zeros_does_no_harm():
    net = chain()
    with torch.no_grad():
        net[0].weight[3] = 0
        net[0].bias[5] = 0
        net[2].weight[:, 6] = 0
        net[2].weight[1] = 0
        net[2].bias[1] = 0
    graph_module = trace(net)
    result = equalize(graph_module)
    assert_same_function(graph_module, result.graph_module, image(16))
    assert all(value.isfinite().all() for value in result.graph_module.state_dict().values())


def test_a_dead_channel_with_a_bias_does_not_set_the_range_of_its_tensor():
    net = chain()
    with torch.no_grad():
        net[0].weight[3] *= 1e-6
        net[0].bias[3] = 0.5
    bias = equalize(trace(net)).graph_module.get_submodule("0").bias.abs()
    assert bias[3] < 10 * bias.median()


def test_activation_ranges_are_equalized_as_well():
    graph_module = perturb_channel_scales(trace(chain()), sigma=1.0).graph_module
    measured = channel_ranges(graph_module, [image(16), image(16).flip(0)])
    assert {name: len(values) for name, values in measured.items()} == {"_1": 8, "_3": 8}
    result = equalize(graph_module, measured).graph_module
    assert_same_function(graph_module, result, image(16))

    def spread(network):
        return sum(values.log().std() for values in channel_ranges(network, [image(16)]).values())

    assert spread(result) < spread(equalize(graph_module).graph_module) < spread(graph_module)


def test_channel_ranges_are_the_largest_magnitudes():
    graph_module = trace(chain())
    with torch.no_grad():
        expected = torch.relu(graph_module.get_submodule("0")(image(16))).amax((0, 2, 3))
    torch.testing.assert_close(channel_ranges(graph_module, image(16).split(1))["_1"], expected)


def test_relu6_pins_unless_it_is_replaced():
    graph_module = trace(chain(nn.ReLU6))
    pinned = equalize(graph_module).report
    assert set(pinned.pinned) == {"0", "2", "4"}
    assert pinned.pinned["0"] == "read by 1 (ReLU6), not positively homogeneous"
    relaxed, replaced = replaced_relu6(graph_module)
    assert replaced == ("1", "3")
    result = equalize(relaxed)
    assert set(result.report.pinned) == {"4"}
    assert [type(module) for module in graph_module.children()][1] is nn.ReLU6
    assert_same_function(trace(chain(nn.ReLU)), result.graph_module, image(16))


def test_a_functional_relu6_is_replaced_and_the_clip_of_a_head_is_not():
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head, self.clip = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1), nn.Hardtanh(0, 1)

        def forward(self, x):
            return self.clip(self.head(nn.functional.relu6(self.stem(x))))

    relaxed, replaced = replaced_relu6(trace(Clipped()))
    assert replaced == ("relu6",)
    assert isinstance(relaxed.get_submodule("clip"), nn.Hardtanh)


def test_a_network_with_nothing_to_scale_comes_back_as_it_was():
    graph_module = trace(chain(nn.ELU))
    result = equalize(graph_module)
    assert result.report.free_groups == 0
    assert_untouched(result.graph_module, state_of(graph_module))


def test_too_few_iterations_are_reported():
    assert not equalize(perturb_channel_scales(trace(chain()), 1.0).graph_module, max_iterations=2).report.converged


def test_ranges_of_an_unknown_node_are_an_error():
    graph_module = trace(chain())
    known = list(channel_groups(graph_module).activations)
    with pytest.raises(ConfigError, match="no channels of '_9' are known; expected one of _0"):
        equalize(graph_module, {"_9": torch.ones(8)})
    with pytest.raises(ConfigError, match="expected one value per channel"):
        equalize(graph_module, {known[0]: torch.ones(3)})


def test_the_table_shows_ratios_and_reasons():
    report = equalize(trace(chain(nn.ReLU6))).report
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(report.table())
    text = " ".join(console.export_text().split())
    assert "not positively homogeneous" in text
    assert report.summary in text
    assert f"{report.layers[1].outputs_after:.2f}" in text


def test_channels_that_stay_below_a_relu6_are_scaled_and_the_function_stays():
    torch.manual_seed(0)
    net = chain(nn.ReLU6)
    with torch.no_grad():
        net[0].weight[:4] *= torch.tensor([30.0, 0.1, 0.05, 0.02], dtype=torch.float64).view(4, 1, 1, 1)
    graph_module, given = trace(net), image(16)
    ranges = channel_ranges(graph_module, [given], bounded=True)
    assert ranges["_1"][0] == 6  # cut off
    pinned = equalize(graph_module)
    result = equalize(graph_module, ranges, bounded=True)
    assert_same_function(graph_module, result.graph_module, given)
    assert result.report.free_groups > pinned.report.free_groups == 0
    assert result.report.pinned["0"] == "reaches the bound of a ReLU6 or clip"
    first = result.report.layers[0]
    assert first.outputs_after < first.outputs_before
    scale = (result.graph_module.get_submodule("0").weight / net[0].weight)[:, 0, 0, 0]
    assert scale[0] == 1
    assert (scale * ranges["_1"] * 1.25 <= 6 * (1 + 1e-9))[1:].all()


def test_a_student_behind_bounds_is_loaded_without_images():
    context = Context(load_target("per-tensor-minmax"), (), Interface.raw("image", (3, 16, 16), ["y"]))
    recipe = Recipe.from_entries(["fold", {"equalize": {"relu6": "bounded"}}])
    assert recipe.to_entries()[1] == {"equalize": {"max_iterations": 500, "relu6": "bounded"}}
    assert Recipe.from_entries(["equalize"]).to_entries() == [{"equalize": {"max_iterations": 500}}]
    Preparer(chain(nn.ReLU6).float(), context, structure_only)(recipe)
    with pytest.raises(ConfigError, match="relu6: bounded needs calibration images"):
        Preparer(chain(nn.ReLU6).float(), context)(recipe)


def test_bounds_need_ranges():
    with pytest.raises(ConfigError, match="the range of '_1', which ends at 6, is missing"):
        equalize(trace(chain(nn.ReLU6)), bounded=True)
