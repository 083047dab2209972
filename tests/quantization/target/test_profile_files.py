"""Profiles and recipes are read by one reader: what it refuses is one line with the file."""

from itertools import pairwise

import pytest

from depth_distill.errors import ConfigError
from depth_distill.quantization.recipe import load_recipe
from depth_distill.quantization.target.target import load_target
from depth_distill.shipped_configs import shipped_folder

PROFILE = (shipped_folder() / "target" / "per-tensor-minmax.yaml").read_text()
BAD = {
    "a key twice": "calibrator: mse\n",
    "not UTF-8": "ä".encode("latin-1").decode("latin-1") + "\udcff",
    "nested": "a: " + "[" * 3000 + "]" * 3000,
    "aliases": "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefgh")),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(("load", "text"), [(load_target, PROFILE), (load_recipe, "calibrator: 1\npasses: [fold]\n")])
def test_a_file_that_cannot_be_read_safely_is_refused_in_one_line(kind, load, text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes((text + BAD[kind]).encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(error.value).startswith(f"{file}")
    assert "\n" not in str(error.value)


def test_an_operator_that_is_none_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_text(PROFILE.replace("operators: {}", "operators: {forbidden: [Sofmax]}"))
    with pytest.raises(ConfigError, match=r"ONNX has no operator 'Sofmax'; did you mean 'Softmax'"):
        load_target(tmp_path / "mine.yaml")


@pytest.mark.parametrize("text", ["passes: [[fold]]", "passes: [{[a]: 1}]", "passes: 3", "pases: [fold]", ""])
def test_a_recipe_of_another_form_is_refused_with_its_file(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_recipe(tmp_path / "mine.yaml")
