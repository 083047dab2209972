"""The search keeps what helps on images that it did not calibrate on, and nothing else."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from depth_distill.callbacks import FakeQuant
from depth_distill.errors import ConfigError, DataError, UserError
from depth_distill.models import SingleHead
from depth_distill.quantization import recipe_search
from depth_distill.quantization.analysis.deviation import Deviation
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.passes.adaround import AdaRound
from depth_distill.quantization.passes.base import Context, PassError
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import NAIVE, Recipe, load_recipe
from depth_distill.quantization.recipe_search import GAIN, chosen_recipe, hold_out, search_recipe, simulated
from depth_distill.quantization.target.target import load_target
from tests.export.networks import smooth_images
from tests.models.networks import spread_network
from tests.quantization.any_network import INPUT, OUTPUTS, SHAPE, samples, two_heads
from tests.quantization.passes.blocks import Bottleneck, images

STRESSED = Recipe.from_entries(["fold", {"stress": {"sigma": 2.0}}])
HELD_OUT = list(samples(4, seed=1).split(1))


def preparer(network=None, images=None, on_report=lambda pass_, report: None):
    context = Context(
        load_target("per-tensor-minmax"),
        list(samples(6).split(1)) if images is None else images,
        Interface.raw(INPUT, SHAPE, OUTPUTS),
    )
    return Preparer(two_heads() if network is None else network, context, on_report=on_report)


def names(recipe):
    return [each.name for each in recipe.passes]


def by_passes(**relative):
    """A score that knows the answer for each set of passes."""

    def score(prepared):
        key = "_".join(names(prepared.recipe)[1:]) or "naive"
        return Deviation({"y": relative[key]}, 1)

    return score


def test_nothing_that_changes_channel_scales_is_tried_behind_what_was_fitted_to_them():
    base = Recipe.from_entries(["fold", {"clip_ranges": {"min_gain": 9.0}}])
    found = search_recipe(preparer(), lambda prepared: Deviation({"y": 0.1}, 1), base, splits=False)
    assert [names(each.recipe)[1:] for each in found.trials] == [["clip_ranges"], ["clip_ranges", "bias_correct"]]


def test_a_stressed_network_is_equalized():
    prepare = preparer()
    found = search_recipe(prepare, simulated(prepare, HELD_OUT, STRESSED), STRESSED)
    assert names(found.chosen)[:3] == ["fold", "stress", "equalize"]
    assert found.chosen.name == "auto"
    assert not found.chosen.has("auto")
    assert found.before.relative > 0.3
    assert found.after.relative < 0.1
    assert found.trials[0].recipe == STRESSED


def test_the_result_is_the_best_of_the_trials_and_never_worse():
    prepare = preparer()
    found = search_recipe(prepare, simulated(prepare, HELD_OUT))
    tried = [each.deviation.relative for each in found.trials]
    assert found.after.relative <= found.before.relative
    assert found.after.relative <= min(tried) / (1 - GAIN)


@pytest.mark.parametrize("gain", [0.0, 0.5 * GAIN])
def test_what_gains_no_more_than_noise_is_not_kept(gain):
    score = by_passes(naive=0.1, equalize=0.1 * (1 - gain), bias_correct=0.1)
    found = search_recipe(preparer(), score)
    assert found.chosen == NAIVE
    assert [each.kept for each in found.trials] == [True, False, False]
    assert found.after == found.before


def test_candidates_stand_behind_the_best_before_them_and_share_its_work():
    ran = []
    prepare = preparer(on_report=lambda pass_, report: ran.append(pass_.name))
    seen = []
    score = by_passes(naive=0.4, equalize=0.2, equalize_bias_correct=0.1)
    found = search_recipe(prepare, score, on_trial=seen.append)
    assert names(found.chosen) == ["fold", "equalize", "bias_correct"]
    assert ran == ["fold", "equalize", "split_channels", "bias_correct"]  # it has nothing to split
    assert seen == list(found.trials)
    assert found.to_dict()["chosen"]["passes"][1] == {"equalize": {"max_iterations": 500}}
    assert [row["kept"] for row in found.to_dict()["trials"]] == [True, True, True]
    assert found.table().row_count == 3


def test_relu6_may_be_replaced_where_the_structure_may_change():
    score = by_passes(naive=0.4, equalize=0.3, replace_relu6_equalize=0.1, replace_relu6_equalize_bias_correct=0.2)
    found = search_recipe(preparer(two_heads(bounded=True)), score)
    assert names(found.chosen) == ["fold", "replace_relu6", "equalize"]
    score = by_passes(naive=0.4, equalize=0.3, equalize_bias_correct=0.5)
    found = search_recipe(preparer(two_heads(bounded=True)), score, values_only=True)
    assert names(found.chosen) == ["fold", "equalize"]


def test_full_effort_tries_rounding_too(monkeypatch):
    monkeypatch.setattr(recipe_search, "AdaRound", lambda: AdaRound(iterations=1))
    score = by_passes(
        naive=0.4,
        equalize=0.3,
        equalize_bias_correct=0.35,
        equalize_adaround=0.31,
        equalize_adaround_bias_correct=0.2,
    )
    prepare = preparer(images=list(samples(2).split(1)))
    found = search_recipe(prepare, score, effort="full")
    assert names(found.chosen) == ["fold", "equalize", "adaround", "bias_correct"]
    assert len(found.trials) == 5


def test_channels_are_split_where_that_gains():
    network = Bottleneck(channels=32, activation=nn.ELU).eval()
    context = Context(
        load_target("per-tensor-minmax"), list(images(8).split(4)), Interface.raw("x", (3, 12, 12), ["y"])
    )
    prepare = Preparer(network, context)
    unseen = list(images(4, seed=2).split(4))
    found = search_recipe(prepare, simulated(prepare, unseen))
    assert found.chosen.has("split_channels")
    assert found.after.relative < 0.7 * found.before.relative
    whole = search_recipe(prepare, simulated(prepare, unseen), splits=False)
    assert not any(each.recipe.has("split_channels") for each in whole.trials)


def test_what_the_base_has_is_not_tried_again():
    base = load_recipe("[fold, equalize, bias_correct]")
    found = search_recipe(preparer(), lambda prepared: Deviation({"y": 0.1}, 1), base)
    assert [each.recipe for each in found.trials] == [base]


def test_a_candidate_that_cannot_run_is_a_row_with_its_reason():
    def refuse(prepared):
        if prepared.recipe.has("equalize"):
            raise ConfigError("no scale for this")
        return Deviation({"y": 0.1}, 1)

    found = search_recipe(preparer(), refuse)
    assert found.chosen == NAIVE
    assert found.trials[1].cells() == ("fold + equalize", "-", "-", "cannot run: no scale for this")


def test_where_the_untouched_network_cannot_be_quantized_another_may():
    def refuse(prepared):
        if prepared.recipe == NAIVE:
            raise ConfigError("a bias does not fit")
        return Deviation({"y": 0.1}, 1)

    found = search_recipe(preparer(), refuse)
    assert found.before is None
    assert names(found.chosen) == ["fold", "equalize"]
    with pytest.raises(UserError, match="nothing fits"):
        search_recipe(preparer(), lambda prepared: (_ for _ in ()).throw(ConfigError("nothing fits")))


def test_bias_correction_behind_a_rescaled_network_without_relu6_still_corrects():
    base = Recipe.from_entries(["fold", {"stress": {"sigma": 2.0}}])
    prepare = preparer(two_heads(bounded=True))
    score = simulated(prepare, HELD_OUT, base)
    rescaled = load_recipe(base.then(*load_recipe("[replace_relu6, equalize]").passes))
    plain, corrected = (
        score(prepare(each)) for each in (rescaled, rescaled.then(*load_recipe("[bias_correct]").passes))
    )
    assert corrected.relative < 1.1 * plain.relative  # it was 20 times as large, judged by layers of another scale


def test_images_are_divided_and_none_is_on_both_sides():
    images = torch.arange(10.0).view(10, 1)
    calibration, held_out = hold_out(list(images.split(4)))
    together = torch.cat([*calibration, *held_out]).flatten().tolist()
    assert sorted(together) == list(range(10))
    assert torch.cat(held_out).flatten().tolist() == [1, 5, 9]
    assert [len(each) for each in calibration] == [4, 3]
    with pytest.raises(DataError, match="at least 2 calibration images, received 1"):
        hold_out([images[:1]])


def test_auto_is_replaced_by_what_was_chosen():
    images = list(samples(8).split(1))
    recipe = Recipe.from_entries(["fold", {"stress": {"sigma": 2.0}}, "auto"], "mine")
    seen = []

    def prepare(calibration):
        seen.append(len(calibration))
        return preparer(images=calibration)

    chosen = chosen_recipe(recipe, images, prepare)
    assert seen == [6]
    assert names(chosen)[:3] == ["fold", "stress", "equalize"]
    assert chosen.name == "mine"
    assert "auto" not in names(chosen)
    assert chosen_recipe(NAIVE, images, prepare) is NAIVE
    assert seen == [6]


def test_passes_behind_auto_come_before_rounding():
    recipe = Recipe.from_entries(["fold", "auto", "uint8_input"])
    chosen = Recipe(load_recipe("robust").passes, "auto").with_passes(*recipe.passes[2:])
    assert names(chosen) == ["fold", "equalize", "split_channels", "uint8_input", "adaround", "bias_correct"]


def test_whoever_has_no_images_refuses_auto_by_name():
    auto = load_recipe("auto")
    assert auto.to_entries() == [{"fold": {}}, {"auto": {"effort": "fast"}}]
    with pytest.raises(PassError, match="recipe auto, pass 2 .auto.: auto stands for passes that are chosen by trying"):
        preparer()(auto)
    with pytest.raises(ConfigError, match="recipe auto: auto chooses passes for weights as they are"):
        FakeQuant(recipe="auto")
    with pytest.raises(ConfigError, match="auto stands there 2 times"):
        load_recipe("[fold, auto, auto]")
    with pytest.raises(ConfigError, match="effort: received 'best', expected one of"):
        load_recipe("[fold, {auto: {effort: best}}]")


@pytest.mark.parametrize("last", ["uint8_input", "thermometer", "logits", "bias_correct"])
def test_behind_any_base_the_reference_is_the_float_network_of_that_base(last):
    size = InputLayout(32, 64, (0.5,) * 3, (0.25,) * 3)
    images = (size.pixels(smooth_images(8, (32, 64))) / 255 - 0.5) / 0.25  # pixels are whole, as those of files are
    network = spread_network(lambda channels, depth_range: SingleHead(channels, depth_range, "log", "sigmoid"), images)
    interface = Interface.of_codes(size, network.codec.host)
    context = Context(load_target("per-tensor-minmax"), list(images[:6].split(2)), interface)
    prepare, base = Preparer(network, context), Recipe.from_entries(["fold", last])
    score = simulated(prepare, list(images[6:].split(1)), base)
    plain = dataclasses.replace(prepare(base), graph=prepare(NAIVE).graph) if last == "bias_correct" else prepare(base)
    assert 1e-3 < score(prepare(base)).relative < 0.2
    unrounded = score(SimpleNamespace(interface=plain.interface, quantized=plain.graph))
    assert unrounded.relative == 0


def test_a_rival_wins_unless_a_candidate_gains_on_it_and_candidates_keep_the_base():
    base = Recipe((*NAIVE.passes, *load_recipe("[equalize]").passes))
    score = by_passes(naive=0.1, equalize=0.4, equalize_bias_correct=0.2)
    found = search_recipe(preparer(), score, base, rivals=[NAIVE])
    assert [names(each.recipe)[1:] for each in found.trials] == [[], ["equalize"], ["equalize", "bias_correct"]]
    assert names(found.chosen) == ["fold"]
    assert found.after.relative == 0.1
    score = by_passes(naive=0.1, equalize=0.4, equalize_bias_correct=0.05)
    assert names(search_recipe(preparer(), score, base, rivals=[NAIVE]).chosen) == ["fold", "equalize", "bias_correct"]
