"""Recipes: the same thing in YAML, hash and record; what cannot be right is refused by name."""

import dataclasses

import pytest
import yaml

from depth_distill.errors import ConfigError
from depth_distill.quantization.head import with_head
from depth_distill.quantization.passes.registry import PASSES
from depth_distill.quantization.recipe import DEFAULT_RECIPE, NAIVE, Recipe, load_recipe, recipe_names
from depth_distill.quantization.target.target import load_target
from depth_distill.shipped_configs import shipped_folder

SIZE = (32, 64)
MEAN, STD = (0.45, 0.4, 0.42), (0.25, 0.24, 0.26)
TARGET = load_target("per-tensor-minmax")
ROUNDED = ["fold", "equalize", {"adaround": {"iterations": 2, "images": 4}}, {"bias_correct": {"images": 4}}]


def test_a_recipe_is_the_same_in_yaml_and_in_a_record():
    recipe = Recipe.from_entries(ROUNDED, "mine")
    again = Recipe.from_entries(yaml.safe_load(yaml.safe_dump(recipe.to_entries())))
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert again.sha256 == recipe.sha256 == recipe.to_dict()["sha256"]
    assert recipe.to_entries()[1] == {"equalize": {"max_iterations": 500}}  # every argument is written out
    assert Recipe.from_entries(["fold", "equalize"]).sha256 != recipe.sha256
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.passes = ()


def test_arguments_count_and_the_name_does_not():
    assert Recipe.from_entries(["fold"], "a") == Recipe.from_entries(["fold"], "b")
    few, many = (Recipe.from_entries(["fold", {"equalize": {"max_iterations": count}}]) for count in (3, 4))
    assert few != many
    assert few.sha256 != many.sha256


def test_shipped_recipes_say_what_they_are_for():
    assert recipe_names() == ("auto", "best", "equalize", "naive", "robust")
    assert DEFAULT_RECIPE in recipe_names()
    assert load_recipe("naive") == NAIVE
    for name in recipe_names():
        content = yaml.safe_load((shipped_folder() / "recipe" / f"{name}.yaml").read_text())
        assert content["description"]
        assert load_recipe(name).to_entries()[0] == {"fold": {}}
        # Every argument of every pass is there to be seen.
        written = [each for each in content["passes"] if isinstance(each, dict)]
        assert written == [each for each in load_recipe(name).to_entries() if next(iter(each.values()))]
    assert [each.name for each in load_recipe("robust").passes] == [
        "fold",
        "equalize",
        "split_channels",
        "adaround",
        "bias_correct",
    ]


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_is_described_and_serializable(name):
    arguments = {"sigma": 0.5} if name == "stress" else {}
    one = PASSES[name](**arguments)
    assert Recipe.from_entries([one.to_dict()]).passes == (one,)
    assert PASSES[name].__doc__


def test_a_recipe_is_read_from_a_name_a_file_a_list_and_text(tmp_path):
    (tmp_path / "mine.yaml").write_text("passes: [fold, equalize]\n")
    expected = Recipe.from_entries(["fold", "equalize"])
    for given in ("equalize", tmp_path / "mine.yaml", ["fold", "equalize"], "[fold, {equalize: {}}]", expected):
        assert load_recipe(given) == expected
    assert str(load_recipe(tmp_path / "mine.yaml")) == "mine"
    assert str(load_recipe("[fold, {adaround: {images: 8}}]")) == "[fold, adaround(images=8)]"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("robst", "unknown recipe 'robst'.*'robust'"),
        ("nothing.yaml", "nothing.yaml does not exist; shipped are auto, best, equalize, naive, robust"),
        ("[fold, equalise]", "recipe, pass 2: there is no pass 'equalise'.*'equalize'"),
        ("[fold", "not valid YAML"),
        (["fold", {"equalize": {"iterations": 3}}], "pass 2 .equalize.: iterations: unknown key.*'max_iterations'"),
        (["fold", {"adaround": {"images": 0}}], "pass 2 .adaround.: images: received 0, expected a whole number"),
        (["fold", {"stress": {"sigma": float("nan")}}], "pass 2 .stress.: sigma: received nan"),
        (["fold", "equalize", "zero_padding"], "zero_padding replaces operators.*put it before equalize"),
        (["fold", {"stress": {"sigma": 0.1}}, "zero_padding"], "put it before stress"),
        (["fold", "bias_correct", "zero_padding"], "bias_correct fits weights .*put zero_padding before"),
        (["fold", "stress"], "missing key sigma"),
        (["fold", {"stress": {"sigma": -1}}], "sigma: received -1, expected a positive number"),
        (["fold", {"adaround": {"seed": -1}}], "seed: received -1, expected a whole number of 0 or more"),
        (["equalize", "fold"], "fold comes after equalize: put it first"),
        (["fold", "equalize", "equalize"], "equalize stands there 2 times"),
        (["fold", "equalize", "bake_ranges"], "bake_ranges keeps ranges that were learned .* equalize changes these"),
        (["fold", "clip_ranges", "equalize"], "clip_ranges chooses ranges .* put equalize before clip_ranges"),
        (["fold", "pair", {"equalize": {"relu6": "bounded"}}], "codes of pair are clipped .* put it before pair"),
        (["fold", "thermometer", {"equalize": {"relu6": "bounded"}}], "put it before thermometer"),
        (["fold", "split_weights", "equalize"], "split_weights clips for .* put equalize before split_weights"),
        (["fold", "split_weights", {"stress": {"sigma": 0.1}}], "put stress before split_weights"),
        (["fold", "split_weights", "pair"], "pair replaces the last .* made two: put pair before split_weights"),
        (["fold", "clip_ranges", "thermometer"], "may have put a clip behind: put thermometer before clip_ranges"),
        (["fold", "split_channels", "split_channels"], "split_channels stands there 2 times"),
        (["fold", "reconstruct_blocks", "equalize"], "reconstruct_blocks fits weights .* put equalize before"),
        (["fold", "adaround", "equalize"], "adaround fits weights to the grid .* put equalize before"),
        ("{fold: {}}", "unknown recipe"),
    ],
)
def test_a_recipe_that_cannot_be_right_is_refused_by_name(given, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(given)


def test_a_file_with_other_keys_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: [fold]\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: expected the keys description and passes, received .*steps"):
        load_recipe(tmp_path / "mine.yaml")


def test_input_passes_come_before_what_rounds():
    recipe = Recipe.from_entries(ROUNDED, "mine").with_passes(PASSES["uint8_input"]())
    assert [each.name for each in recipe.passes] == ["fold", "equalize", "uint8_input", "adaround", "bias_correct"]
    assert str(recipe) == "mine + uint8_input"
    assert str(NAIVE.with_passes()) == "naive"
    assert str(Recipe(NAIVE.passes).with_passes(PASSES["uint8_input"]())) == "[fold, uint8_input]"


@pytest.mark.parametrize("fitted", ["clip_ranges", "split_weights"])
@pytest.mark.parametrize("head", ["pair", "thermometer"])
def test_a_head_comes_before_what_is_fitted_to_the_network(head, fitted):
    recipe = with_head(Recipe.from_entries(["fold", "equalize", fitted, "bias_correct"]), head)
    assert [each.name for each in recipe.passes] == ["fold", "equalize", head, fitted, "bias_correct"]


def test_channels_are_stressed_behind_surgery():
    stressed = load_recipe("[fold, replace_relu6, zero_padding, equalize]").stressed(0.5)
    assert [each.name for each in stressed.passes] == ["fold", "replace_relu6", "zero_padding", "stress", "equalize"]
    assert [each.name for each in load_recipe("equalize").stressed(0.5).passes] == ["fold", "stress", "equalize"]


def test_a_list_that_yaml_cannot_make_sense_of_is_named():
    with pytest.raises(ConfigError, match=r"recipe \[fold, 2001-99-99\]: not valid YAML: month must be"):
        load_recipe("[fold, 2001-99-99]")
