"""What the page advises follows from what was measured."""

from pathlib import Path

from depth_distill.export.harden.outcome import Hardening, HardenOptions, LayerRow, Verdict
from depth_distill.export.harden.report import advice, page
from depth_distill.quantization.analysis.deviation import Deviation
from depth_distill.quantization.recipe import NAIVE
from depth_distill.quantization.recipe_search import RecipeSearch, Trial
from depth_distill.quantization.target.target import load_target


def outcome(before, after, hardened=True, layers=(), images=64):
    one, two = Deviation({"scores": before}, 4), Deviation({"scores": after}, 4)
    return Hardening(
        HardenOptions(Path("model.onnx"), Path("photos"), Path("robust.onnx")),
        load_target("per-tensor-minmax"),
        "80 pictures",
        RecipeSearch(NAIVE, (Trial(NAIVE, one, True, 0.1),)),
        Verdict("ONNX Runtime's quantizer", one, two, NAIVE, hardened, None),
        tuple(layers),
        (("fold", "3 batch norms folded"),),
        (Path("a.png"),) * images,
        16,
        (),
    )


def layer(name, after, pinned=""):
    return LayerRow(name, "", after - 1, after, pinned, True)


def test_the_verdict_is_one_sentence():
    assert outcome(0.0851, 0.0224).sentence == (
        "INT8 deviation: 21.4 dB -> 33.0 dB SQNR (8.51 % -> 2.24 % relative error); robust.onnx takes the place of "
        "model.onnx"
    )
    assert outcome(0.1, 0.1, hardened=False).sentence == (
        "nothing helped: the untouched network was returned as robust.onnx (INT8 deviation: 20.0 dB SQNR, 10 % "
        "relative error)"
    )


def test_a_small_deviation_needs_nothing_more():
    (line,) = advice(outcome(0.1, 0.01))
    assert line.startswith("40.0 dB are 1 % of error")


def test_a_large_one_names_the_layer_and_the_ways_out():
    lines = advice(outcome(0.5, 0.4, layers=[layer("stem", 30.0), layer("neck", 7.9)], images=10))
    assert lines[0].startswith("Deviation stays at 7.9 dB in neck: leave it in 16 bits")
    assert any("--target per-channel" in line for line in lines)
    assert any("--effort full" in line for line in lines)
    assert any("10 calibration images are few" in line for line in lines)


def test_reasons_of_a_kind_count_together():
    rows = [layer(name, 9, f"read by {name}.act (ReLU6), not positively homogeneous") for name in "ab"]
    lines = advice(outcome(0.5, 0.4, layers=[*rows, layer("head", 9, "an output of the network")]))
    assert any("2 of 3 layers are pinned" in line and "of 2 the reason is: read by ReLU6" in line for line in lines)
    section = next(each for each in page(outcome(0.5, 0.4, layers=rows)).sections if each.title.startswith("What is"))
    assert [row[0] for row in section.rows] == ["a", "b"]
