"""A network for a target that substitutes its last activation ends otherwise, where that is measured to be better."""

import dataclasses
from functools import partial

import pytest
import torch

from depth_distill.models import SingleHead
from depth_distill.quantization import head_choice
from depth_distill.quantization.graph.substituted import substituted
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.head_choice import choose_head, substituted_ending
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import NAIVE, Recipe
from depth_distill.quantization.simulate.fake_quantize import without_substitutions
from depth_distill.quantization.target.target import load_target
from tests.models.networks import image, spread_network

HARD = load_target("hard-sigmoid")
IMAGES = [image(4)]


@pytest.fixture(scope="module")
def sigmoid():
    return spread_network(partial(SingleHead, encoding="inverse"))


def choice(network, recipe=NAIVE, target=HARD, keep=False):
    inputs = InputLayout(64, 96, (0.0,) * 3, (1.0,) * 3)
    interface = Interface.of_codes(inputs, network.codec.host)
    return choose_head(recipe, IMAGES, lambda images: Preparer(network, Context(target, images, interface)), keep)


def test_the_end_is_changed_where_the_target_substitutes_it(sigmoid):
    recipe = Recipe.from_entries(["fold", "equalize", "auto"], "mine")
    found = choice(sigmoid, recipe)
    names = [each.name for each in found.recipe.passes]
    assert names[:2] == ["fold", "equalize"]
    assert names[2] in ("logits", "pair", "thermometer")
    assert names[3:] == ["auto"]
    assert found.recipe.name == "mine"
    assert found.line.startswith("hard-sigmoid computes the last Sigmoid as hard_sigmoid, which puts depth off by ")
    assert f"ends in the pass {names[2]}" in found.line
    assert "\n" not in found.line


def test_a_person_may_keep_the_end_and_is_told_the_price(sigmoid):
    found = choice(sigmoid, keep=True)
    assert found.recipe == NAIVE
    assert "that is kept: expect depth to be off by" in found.line
    share = float(found.line.rpartition("by ")[2].removesuffix(" %"))
    # The approximation alone, without any rounding.
    with torch.no_grad():
        codes = sigmoid(IMAGES[0])
        logits = torch.logit(codes.double().clamp(1e-9, 1 - 1e-9))
        depth, moved = (sigmoid.codec.decode(each.float()) for each in (codes, (0.2 * logits + 0.5).clamp(0, 1)))
    expected = 100 * float((moved - depth).square().mean().sqrt() / depth.square().mean().sqrt())
    assert share == pytest.approx(expected, rel=0.5)


def test_what_needs_no_change(sigmoid):
    clips = spread_network(partial(SingleHead, output="clip"))
    assert choice(clips).line == ""
    assert choice(clips).recipe == NAIVE
    logits = Recipe.from_entries(["fold", "logits"])
    assert choice(sigmoid, logits) == choice(sigmoid, logits, keep=True)
    assert choice(sigmoid, logits).recipe is logits
    confirmed = dataclasses.replace(HARD, substitutions={"Sigmoid": "no"})
    assert choice(sigmoid, target=confirmed).line == ""
    inside = dataclasses.replace(HARD, substitutions={"Elu": "relu"})
    assert choice(sigmoid, target=inside).line == ""


def test_the_words_for_an_ending(sigmoid):
    graph = fold(trace(sigmoid))
    assert substituted_ending(graph, HARD) == "the last Sigmoid as hard_sigmoid"
    assert substituted_ending(graph, load_target("per-tensor-minmax")) == ""


def test_only_the_last_activation_is_put_back_to_judge_the_end(sigmoid, monkeypatch):
    put_back = []

    def without(quantized, sites):
        put_back.append((set(sites), set(substituted(quantized))))
        return without_substitutions(quantized, sites)

    monkeypatch.setattr(head_choice, "without_substitutions", without)
    assert choice(sigmoid, keep=True).line
    ((sites, every),) = put_back
    assert sites == {"head.output (Sigmoid by hard_sigmoid)"}
    assert sites <= every
