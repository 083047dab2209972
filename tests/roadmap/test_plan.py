"""Roadmap files: what is read, and what is refused."""

from pathlib import Path

import pytest

from depth_distill.errors import ConfigError
from depth_distill.roadmap import load_plan
from depth_distill.shipped_configs import find_config

CONFIGS = Path(__file__).parents[2] / "configs" / "roadmap"
SMALL = """
teacher_config: a.yaml
distill_config: b.yaml
rows:
  - {name: FP32 teacher, kind: float}
"""


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_shipped_is_a_plan_of_files_that_exist(path):
    plan = load_plan(path)
    assert find_config(plan.teacher_config).is_file()
    assert find_config(plan.distill_config).is_file()
    assert plan.rows[0].kind == "float"
    assert {"float", "ptq"} <= {row.kind for row in plan.rows}
    assert list(plan.networks) == (["plain", "stressed"] if path.stem in ("kitchen", "quickstart") else ["plain"])


def test_a_plan_without_networks_has_the_plain_one(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    assert load_plan(tmp_path / "small.yaml").networks == {"plain": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL + "images: -1\n", "images: received -1, expected a whole number of 1 or more"),
        (SMALL + "calibration_images: 0\n", "calibration_images: received 0"),
        (SMALL + "networks: {plain: .nan}\n", r"networks\.plain: received nan, expected a positive number"),
        (SMALL.replace("kind: float", "kind: float, reach: .inf"), "row 'FP32 teacher': reach: received inf"),
        (SMALL.partition("rows")[0] + "rows: []\n", "rows is empty"),
        (SMALL + "target: nope\n", "unknown target 'nope'"),
        (SMALL + "substituting: per-tensor-minmax\n", "the profile per-tensor-minmax substitutes nothing"),
        (SMALL.replace("kind: float", "kind: float, planned: 0.1"), "planned, but planned_float is not given"),
        (SMALL + "planned_float: 0\n", "planned_float: received 0"),
        (SMALL.replace("kind: float", "kind: float, decode_table: true"), "decode_table is for the kind ptq"),
        (SMALL.replace("kind: float", "kind: ptq, then: best"), "then is for the kind distill, received ptq"),
        (SMALL.replace("b.yaml", "distill/quickstart").replace("float", "distill, then: bset"), "did you mean 'best'"),
        (SMALL + "target: symmetric-pow2\nsubstituting: hard-sigmoid\n", "of symmetric-pow2, its scales are powers"),
        (SMALL.replace("kind: float", "kind: distill") + "seeds: []\n", "seeds is empty: expected at least one"),
        (SMALL.replace("kind: float", "kind: distill"), "distill_config: there is no file b.yaml"),
        (SMALL + "target: a\ntarget: b\n", "'target' is given twice"),
        ("- 1\n", "is not a roadmap: it has no keys"),
        ("a: " + "[" * 3000, "not valid YAML: .*nest"),
        (SMALL + "teachr_config: c.yaml\n", "is not a roadmap: .*teachr_config"),
        (SMALL.replace("kind: float", "kind: floot"), "is not a roadmap: "),
        ("teacher_config: a.yaml\n", "is not a roadmap: "),
        (
            SMALL.replace("kind: float", "kind: float, networks: [plan]"),
            "the network 'plan', expected one of plain",
        ),
    ],
)
def test_errors_name_what_is_wrong_in_a_plan(tmp_path, text, message):
    (tmp_path / "small.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"small\.yaml.*{message}"):
        load_plan(tmp_path / "small.yaml")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("teachers: {one: {}}\nteacher_checkpoints: {two: a.ckpt}\n", "teacher_checkpoints: unknown teacher 'two'"),
        ("teacher_checkpoints: {two: a.ckpt}\n", "unknown teacher 'two'; there are no teachers"),
        ("teachers: {one: {}}\nteacher_checkpoint: a.ckpt\n", "teacher_checkpoint stands beside teachers"),
        ("teachers: {A b: {}, a-B: {}}\n", "teachers: 'A b' and 'a-B' would share the folder 'a-b'"),
        ("networks: {A b: 2, a-B: 3}\n", "networks: 'A b' and 'a-B' would share the folder 'a-b'"),
        ("  - {name: FP32 teacher, kind: ptq}\n", "rows: 'FP32 teacher' and 'FP32 teacher' would share"),
    ],
)
def test_names_that_mean_nothing_or_the_same(tmp_path, more, message):
    (tmp_path / "small.yaml").write_text(SMALL + more)
    with pytest.raises(ConfigError, match=rf"small\.yaml: .*{message}"):
        load_plan(tmp_path / "small.yaml")


@pytest.mark.parametrize("key", ["target", "substituting"])
def test_a_profile_whose_substitution_no_file_can_have(tmp_path, key):
    text = find_config("target/hard-sigmoid").read_text().replace("Sigmoid: hard_sigmoid", "Sigmoid: table_8")
    (tmp_path / "table.yaml").write_text(text)
    (tmp_path / "small.yaml").write_text(f"{SMALL}{key}: {tmp_path / 'table.yaml'}\n")
    with pytest.raises(ConfigError, match=r"small\.yaml: no file .* it computes Sigmoid as table_8"):
        load_plan(tmp_path / "small.yaml")


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"small\.yaml does not exist"):
        load_plan(tmp_path / "small.yaml")
