import re
from pathlib import Path

import pytest

from depth_distill.errors import ConfigError
from depth_distill.export.probe.profile_writing import check_destination, write_profile
from depth_distill.quantization.target.target import load_target

BUILT_IN = Path(__file__).parents[3] / "configs" / "target"
REMARK = "qnn 2.7.0, 2026-11-27"


def profile(tmp_path, *edits, name="aiware-apache6"):
    text = (BUILT_IN / f"{name}.yaml").read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "chip.yaml"
    path.write_text(text)
    return path


def written(source, capabilities, forbidden=(), remark=REMARK):
    """The lines that changed, as (old, new); lines that were added stand alone."""
    target, path = load_target(source), source.with_name("new.yaml")
    write_profile(target, path, capabilities, forbidden, remark)
    old, new = source.read_text().splitlines(), path.read_text().splitlines()
    assert not [line for line in old if line.lstrip().startswith("#") and line not in new]
    return [line for line in new if line not in old], load_target(path)


def test_only_lines_with_new_values_change(tmp_path):
    lines, found = written(profile(tmp_path), {"int8": "yes", "int16": "yes", "fp16": "no"}, ["Elu", "Softmax"])
    assert lines == [
        f'  int16: "yes"  # probed: {REMARK}',
        f'  fp16: "no"  # probed: {REMARK}',
        f"  forbidden: [Elu]  # probed: {REMARK}",
    ]
    assert (found.capabilities.int8, found.capabilities.int16, found.capabilities.fp16) == ("yes", "yes", "no")
    assert found.capabilities.asymmetric_activations == "unconfirmed"
    assert found.operators.forbidden == ("Elu",)  # Softmax is not in the list of what it takes
    assert not found.operators.takes("Elu")


def test_comments_stay_and_remarks_are_replaced(tmp_path):
    source = profile(tmp_path, ("  int16: unconfirmed", "  int16: unconfirmed   # ask the vendor"))
    lines, _ = written(source, {"int16": "yes"})
    assert lines == [f'  int16: "yes"   # ask the vendor; probed: {REMARK}']
    again = source.with_name("again.yaml")
    write_profile(load_target(source.with_name("new.yaml")), again, {"int16": "no"}, [], "rknn 3, 2027-01-01")
    assert '  int16: "no"   # ask the vendor; probed: rknn 3, 2027-01-01\n' in again.read_text()


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# probed: R1; and my note", "# probed: R2; and my note"),
        ("# mine; probed: R1; and: more; notes", "# mine; probed: R2; and: more; notes"),
        ("# it was probed: R1", "# it was probed: R1; probed: R2"),  # no remark of ours
    ],
)
def test_notes_around_an_earlier_remark_stay(tmp_path, comment, expected):
    source = profile(tmp_path, ("  int16: unconfirmed", f"  int16: unconfirmed  {comment}"))
    assert written(source, {"int16": "yes"}, remark="R2")[0] == [f'  int16: "yes"  {expected}']
    source = profile(
        tmp_path, ("operators: {}", f"operators:\n  forbidden: [Reshape]  {comment}"), name="per-tensor-minmax"
    )
    assert written(source, {}, ["Relu"], "R2")[0] == [f"  forbidden: [Reshape, Relu]  {expected}"]


def test_several_values_on_one_line(tmp_path):
    text = (BUILT_IN / "aiware-apache6.yaml").read_text()
    block = re.search(r"capabilities:\n((?:  .*\n)+)", text)
    values = ", ".join(line.strip() for line in block[1].splitlines())
    source = profile(tmp_path, (block[0], f"capabilities: {{{values}}}\n"))
    lines, found = written(source, {"int16": "yes", "fp16": "no"})
    assert len(lines) == 1
    assert lines[0].count("probed") == 1
    assert (found.capabilities.int16, found.capabilities.fp16) == ("yes", "no")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("operators: {}", "operators: {}", ["operators: {forbidden: [Relu, Add]}  # probed: R"]),
        (
            "operators: {}",
            "operators: {max_opset: 8}",
            ["operators: {forbidden: [Relu, Add], max_opset: 8}  # probed: R"],
        ),
        ("operators: {}", "operators:\n  max_opset: 8", ["  forbidden: [Relu, Add]  # probed: R"]),
        (
            "operators: {}",
            "operators:\n  forbidden: []\n  max_opset: 8",
            ["  forbidden: [Relu, Add]  # probed: R"],
        ),
        (
            "operators: {}",
            "operators:\n  forbidden:\n    - Reshape  # costly\n  max_opset: 8",
            ["    - Relu  # probed: R", "    - Add  # probed: R"],
        ),
    ],
)
def test_forbidden_operators_in_every_style(tmp_path, old, new, expected):
    source = profile(tmp_path, (old, new), name="per-tensor-minmax")
    lines, found = written(source, {}, ["Relu", "Add", "Relu"], "R")
    assert lines == expected
    assert found.operators.forbidden[-2:] == ("Relu", "Add")
    assert found.operators.max_opset == (8 if "max_opset" in new else None)


def test_windows_line_ends_stay(tmp_path):
    source = profile(tmp_path)
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    write_profile(load_target(source), tmp_path / "new.yaml", {"int16": "yes"}, ["Elu"], REMARK)
    text = (tmp_path / "new.yaml").read_bytes()
    assert text.count(b"\n") == text.count(b"\r\n") == source.read_bytes().count(b"\r\n") + 1  # forbidden
    assert f'  int16: "yes"  # probed: {REMARK}\r\n'.encode() in text


def test_nothing_is_written_that_does_not_load(tmp_path):
    with pytest.raises(
        ConfigError, match=r"new.yaml was not written.*contradicts capabilities.per_channel_weights: no"
    ):
        write_profile(load_target("per-channel"), tmp_path / "new.yaml", {"per_channel_weights": "no"}, [], REMARK)
    assert not list(tmp_path.iterdir())


def test_where_a_profile_must_not_go(tmp_path):
    target = load_target("aiware-apache6")
    with pytest.raises(ConfigError, match="is a built-in profile, which must not change"):
        check_destination(target, target.source)
    (tmp_path / "link.yaml").symlink_to(load_target("per-channel").source)
    with pytest.raises(ConfigError, match="is a built-in profile"):
        check_destination(target, tmp_path / "link.yaml")
    with pytest.raises(ConfigError, match=r"a profile must be a .yaml file; write to .*mine.yaml"):
        check_destination(target, tmp_path / "mine.json")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        check_destination(target, tmp_path / "folder.yaml")
    own = profile(tmp_path)
    check_destination(load_target(own), own)  # somebody's own profile may be brought up to date
