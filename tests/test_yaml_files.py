"""read_yaml and check_yaml: what people slip on, and what is meant to do harm, is one line, at once."""

import time

import pytest
import yaml

from depth_distill.errors import ConfigError
from depth_distill.yaml_files import check_yaml, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"the key 'a' is given twice, on lines 1 and 3"),
        ("a:\n  - {x: 1}\n  - {x: 1, y: 2, x: 3}\n", r"the key 'x' is given twice, on lines 3 and 3"),
        ("a: &a [*a]\n", r"line 1: \*a contains itself"),
        ("a: &a {b: {c: *a}}\n", r"line 1: \*a contains itself"),
        (BOMB, r"line 6: aliases repeat more than 200,000 values"),
        ("\n".join("  " * depth + "a:" for depth in range(200)), r"line 101: nested more than 100 deep"),
        ("a: 1" + "0" * 5000, r"line 1: a number of 5001 digits"),
        ("a: [1, 2", r"expected ',' or ']'"),
    ],
)
def test_it_is_refused_with_its_line(text, message, tmp_path):
    with pytest.raises(yaml.YAMLError, match=message):
        check_yaml(text)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'a.yaml'}: not valid YAML: ")
    assert "\n" not in str(caught.value)


def test_a_bomb_costs_nothing():
    started = time.monotonic()
    with pytest.raises(yaml.YAMLError):
        check_yaml(BOMB)
    assert time.monotonic() - started < 1  # expanded it is 387 million values


@pytest.mark.parametrize(
    "text",
    ["a: 1\nb: {a: 1}\n", "x: &x {a: 1}\ny: {<<: *x, b: 2}\nz: [*x, *x]\n", "a: '1\\\n  1'\n", "- a\n- a\n", ""],
)
def test_good_yaml_is_left_alone(text):
    check_yaml(text)


def test_what_is_read_is_plain_data(tmp_path):
    (tmp_path / "a.yaml").write_text("\ufeffa: [1, 2.5, true]\n", encoding="utf-8")  # with a byte order mark
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2.5, True]}
    (tmp_path / "a.yaml").write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="could not determine a constructor for the tag"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("content", ["a: 1\n".encode("utf-16"), b"\x80\x02}", "# \xe9\n".encode("latin-1")])
def test_what_is_no_utf_8_is_named(content, tmp_path):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.yaml is not YAML: it is no text in UTF-8"):
        read_yaml(tmp_path / "a.yaml")


def test_what_is_no_file_is_named(tmp_path):
    for path, message in (
        (tmp_path, "is a folder; expected a YAML file in it"),
        (tmp_path / "a.yaml", "does not exist"),
        (tmp_path / "b.yaml" / "a.yaml", "cannot be read"),
        (tmp_path / "loop.yaml", "cannot be read"),
    ):
        (tmp_path / "b.yaml").touch()
        if not (tmp_path / "loop.yaml").is_symlink():
            (tmp_path / "loop.yaml").symlink_to("loop.yaml")
        with pytest.raises(ConfigError, match=message):
            read_yaml(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(10**11)  # a hole: it takes no space on the disk
    with pytest.raises(ConfigError, match=r"a\.yaml is larger than 16 MB"):
        read_yaml(tmp_path / "a.yaml")
