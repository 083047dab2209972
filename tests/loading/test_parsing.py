"""Parsing: what a config refers to, what is read, and what a class that cannot be built becomes."""

import pytest
from jsonargparse import ArgumentParser

from depth_distill.errors import ConfigError
from depth_distill.loading.parsing import PARSER, instantiate, parse


class Layer:
    def __init__(self, width: int = 1) -> None:
        self.weights = [0] * (10 // width)


def parser():
    made = ArgumentParser(**PARSER)
    made.add_argument("--config", action="config")
    made.add_argument("--a", type=int, default=1)
    made.add_argument("--b", type=int, default=1)
    made.add_class_arguments(Layer, "layer")
    return made


def parsed(folder, text):
    file = folder / "a.yaml"
    file.write_text(text)
    return parse(parser(), ["--config", str(file)], [file])


def test_a_value_refers_to_another(tmp_path):
    assert parsed(tmp_path, "a: 3\nb: ${a}\n").b == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: ${c}\n", r"a\.yaml: a: Interpolation key '\.?c' not found"),
        ("a: ${b}\nb: ${a}\n", r"a\.yaml: [ab]: "),
        ("a: ${a}\n", r"a\.yaml: a: "),
        ("a: ${b\n", r"a\.yaml: a: this \$\{\.\.\.\} cannot be read"),
        ("a: ${eval:1+1}\n", r"a\.yaml: a: Unsupported interpolation type eval"),
        ("a: ${oc.env:NOT_SET_ANYWHERE}\n", r"Environment variable 'NOT_SET_ANYWHERE' not found"),
    ],
)
def test_what_refers_to_nothing_is_named_with_its_key(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        parsed(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "expected ${KEY} with a key of the config" in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "hello\n", "null\n"])
def test_a_config_without_keys_is_refused(text, tmp_path):
    with pytest.raises(ConfigError, match=r"a\.yaml has no keys; expected a config"):
        parsed(tmp_path, text)


def test_a_key_that_is_given_twice_is_refused_also_in_a_value(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.yaml: not valid YAML: the key 'a' is given twice"):
        parsed(tmp_path, "a: 1\na: 2\n")
    with pytest.raises(ConfigError, match="given twice|expected"):
        parse(parser(), ["--layer", "{width: 1, width: 2}"], [])


def test_what_a_class_raises_is_one_line_with_its_place(tmp_path):
    made = parser()
    with pytest.raises(ConfigError) as caught:
        instantiate(made, made.parse_args(["--layer.width", "0"]))
    assert "the config cannot be built: ZeroDivisionError: " in str(caught.value)
    assert "(test_parsing.py line 12)" in str(caught.value)
    assert "\n" not in str(caught.value)


class Wrapper:
    """As ImportedNetwork: what its argument names is built by itself, from code that is not on the path yet."""

    def __init__(self, module: dict) -> None:
        self.module = module


def test_an_argument_may_name_a_function_or_code_that_is_not_there_yet(tmp_path):
    made = ArgumentParser(**PARSER)
    made.add_argument("--config", action="config")
    made.add_subclass_arguments(Wrapper, "network")
    for named in ("my_code_of_nowhere.Net", "os.path.join"):
        file = tmp_path / "a.yaml"
        file.write_text(
            f"network: {{class_path: {__name__}.Wrapper, init_args: {{module: {{class_path: {named}}}}}}}\n"
        )
        found = parse(made, ["--config", str(file)], [file])
        assert found.network.init_args.module["class_path"] == named
