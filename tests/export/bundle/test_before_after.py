"""Before and after: which network is exported, and the sentence about it."""

from types import SimpleNamespace

import pytest

from depth_distill.export.bundle import before_after
from depth_distill.export.bundle.before_after import BeforeAfter, Score, compare, section, verdict
from depth_distill.export.bundle.network import Candidates
from depth_distill.export.bundle.report import RuntimeRow, TableScore
from depth_distill.quantization.recipe import load_recipe

FP32 = {"abs_rel": 0.1, "rmse": 0.5, "delta1": 0.9, "abs_rel_0.5-2m": 0.08, "abs_rel_2-5m": float("nan")}


def metrics(mm, ratio):
    return {**FP32, "abs_rel": 0.1 * ratio, "drift_mm": mm, "drift_p99_mm": 5 * mm}


def network(recipe):
    return SimpleNamespace(
        recipe=load_recipe(recipe), fingerprint=[], scales={}, interface=None, quantized=None, reference=None
    )


def compared(monkeypatch, numbers, asked="equalize", keep=False, ends_as_asked=True):
    """What is exported, where INT8 of each recipe has such a distance from FP32 in mm, and times FP32's abs_rel."""
    monkeypatch.setattr(before_after, "InterfaceScorer", lambda *_: lambda graph: {})
    wanted = network(asked)
    bare = network(wanted.recipe.bare)
    own_end = network(bare.recipe.without("logits", "pair"))
    untouched = bare if own_end.recipe == bare.recipe else own_end
    scores = {"score the float network": FP32}
    scores |= {f"score INT8, {name}": metrics(*each) for name, each in numbers.items()}
    steps = SimpleNamespace(run=lambda name, depends_on, work: scores[name])
    return compare(Candidates(untouched, bare, wanted, ends_as_asked), None, [], steps, keep)


@pytest.mark.parametrize(
    ("untouched", "asked", "exported"),
    [
        ((100, 2.0), (5, 1.01), "fold + equalize"),
        ((8.2, 0.998), (6.8, 1.003), "fold + equalize"),
        ((8.2, 0.998), (6.8, 1.010), "untouched"),  # abs_rel is 1 % higher, depth not twice as close
        ((14.0, 0.998), (6.8, 1.010), "fold + equalize"),  # twice as close
        ((117, 0.765), (4.7, 0.996), "fold + equalize"),  # a fault may lower abs_rel
        ((6.8, 1.0), (8.2, 1.0), "untouched"),
        ((6.8, 1.0), (6.85, 1.0), "fold + equalize"),  # noise
        ((6.8, float("nan")), (8.2, float("nan")), "untouched"),  # no ground truth
    ],
)
def test_what_is_worse_is_not_exported(untouched, asked, exported, monkeypatch):
    found = compared(monkeypatch, {"untouched": untouched, "fold + equalize": asked})
    assert found.after.recipe == exported
    assert found.prepared.recipe.title == ("fold" if exported == "untouched" else exported)
    assert bool(found.reason) == (exported == "untouched")
    if found.reason:
        assert found.reason.endswith("untouched is exported (--keep-recipe exports what was asked for)")
    assert found.before.recipe == "untouched"


def test_a_recipe_is_kept_if_that_is_asked_for(monkeypatch):
    found = compared(monkeypatch, {"untouched": (6.8, 1), "fold + equalize": (8.2, 1)}, keep=True)
    assert found.after.recipe == "fold + equalize"
    assert found.reason == (
        "fold + equalize moves depth by 8.2 mm, untouched by 6.8 mm; it is exported all the same, as asked"
    )


def test_another_end_that_was_asked_for_stays(monkeypatch):
    numbers = {"untouched": (4, 1), "fold + pair": (5, 1), "fold + equalize + pair": (6, 1)}
    recipe = ["fold", "equalize", "pair"]
    assert compared(monkeypatch, numbers, recipe, ends_as_asked=False).after.recipe == "fold + pair"
    assert compared(monkeypatch, numbers, recipe).after.recipe == "untouched"  # an end that a target was given
    better = {**numbers, "fold + equalize + pair": (3, 1)}
    assert compared(monkeypatch, better, recipe, ends_as_asked=False).after.recipe == "fold + equalize + pair"


def test_the_verdict(monkeypatch):
    found = compared(monkeypatch, {"untouched": (119.04, 3.7), "fold + equalize": (5.1, 1.003)})
    assert verdict(found, None, []) == (
        "INT8 costs 0.3 % (untouched: 270.0 %): abs_rel 0.1003, 0.1000 in FP32; depth moves by 5.1 mm "
        "(untouched: 119.0 mm); as the target computes it, simulated."
    )
    table = TableScore(0.102, 1.02, 6, 0.1)
    fitted = RuntimeRow("float", "Tool PTQ", abs_rel=0.2, ratio=2.0, drift_mm=50, with_table=table)
    untouched = [
        RuntimeRow("untouched", "Other PTQ", abs_rel=0.9, ratio=9.0, drift_mm=900),
        RuntimeRow("untouched", "Tool PTQ", abs_rel=0.29, ratio=2.9, drift_mm=347),
    ]
    assert verdict(found, fitted, untouched) == (
        "INT8 costs 2.0 % (untouched: 190.0 %): abs_rel 0.1020, 0.1000 in FP32; depth moves by 6.0 mm "
        "(untouched: 347.0 mm); on Tool PTQ, decoded by the table."
    )
    refused = [RuntimeRow("untouched", "Tool PTQ", error="no")]
    assert "untouched" not in verdict(found, fitted, refused)
    same = compared(monkeypatch, {"untouched": (5, 1)}, "naive")
    assert verdict(same, None, []) == (
        "INT8 costs nothing: abs_rel 0.1000, 0.1000 in FP32; depth moves by 5.0 mm; "
        "as the target computes it, simulated."
    )


def test_the_table_has_everybody():
    scores = (Score("untouched", metrics(100, 2)), Score("fold + equalize", metrics(5, 1)))
    found = BeforeAfter(FP32, scores, 1, None, None, reason="because")
    table = section(found, {**FP32, "abs_rel": 0.09}, "cap 15 m", ["a.png"])
    assert table.header == (
        *("network", "abs_rel", "x FP32", "rmse [m]", "delta1", "abs rel 0.5-2m", "from FP32 [mm]", "99 % [mm]"),
    )
    assert [row[:3] for row in table.rows] == [
        ("teacher, FP32", "0.0900", "0.900"),
        ("FP32", "0.1000", "1.000"),
        ("INT8, untouched", "0.2000", "2.000"),
        ("INT8, fold + equalize, exported", "0.1000", "1.000"),
    ]
    assert [row[-2:] for row in table.rows] == [("-", "-"), ("-", "-"), ("100.0", "500.0"), ("5.0", "25.0")]
    assert "Because." in table.lines
