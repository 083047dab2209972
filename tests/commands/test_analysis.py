"""quantize_run prepares what its options say, report writes what it is given."""

import json

import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.table import Table
from torch import nn

import depth_distill
from depth_distill.commands import analysis
from depth_distill.commands.options import CommandParser, add_analysis
from depth_distill.errors import ConfigError
from depth_distill.exit_codes import exit_code
from depth_distill.quantization.simulate.fake_quantize import quantizers

STRESS = "{stress: {sigma: 1.5}}"
ENCODER = "--model.init_args.network.init_args.encoder"


@pytest.fixture(scope="module")
def prepare(trained_checkpoint):
    def run(*words):
        parser = CommandParser("analysis", "")
        add_analysis(parser)
        words = ["--checkpoint", str(trained_checkpoint), "--calibration-images", "4", "--out", "unused", *words]
        return analysis.quantize_run(*parser.parse(words))

    return run


@pytest.fixture(scope="module")
def stressed(prepare):
    return prepare("--recipe", f"[fold, {STRESS}]")


def test_a_run_is_folded_quantized_and_scored_against_its_float_network(prepare):
    run = prepare("--recipe", "naive")
    assert run.title == "small, per-tensor-minmax, recipe naive"
    assert not any(isinstance(module, nn.BatchNorm2d) for module in run.prepared.graph.modules())
    assert all(each.has_range and each.enabled for each in quantizers(run.quantized).values())
    assert run.prepared.context.target.name == "per-tensor-minmax"
    assert sum(len(batch) for batch in run.prepared.batches) == 4
    assert sum(map(len, run.scorer.images)) == 5
    assert run.scorer(run.prepared.graph)["drift_mm"] == 0
    assert run.scorer(run.quantized)["drift_mm"] > 0


def test_stress_hurts_the_integers_and_not_the_function(prepare, stressed):
    plain = prepare("--recipe", "naive")
    assert stressed.title == "small, per-tensor-minmax, recipe [fold, stress(sigma=1.5)]"
    exact = plain.scorer(plain.prepared.graph)["abs_rel"]
    assert plain.scorer(stressed.prepared.graph)["abs_rel"] == pytest.approx(exact, rel=1e-4)
    drifts = [run.scorer(run.quantized)["drift_mm"] for run in (plain, stressed)]
    assert drifts[1] > 1.5 * drifts[0]


def test_equalization_is_shown_and_takes_stress_back(prepare, stressed, capsys):
    equalized = prepare("--recipe", f"[fold, {STRESS}, equalize]")
    assert equalized.title == "small, per-tensor-minmax, recipe [fold, stress(sigma=1.5), equalize]"
    assert "decoder.blocks" in capsys.readouterr().out
    drifts = [run.scorer(run.quantized)["drift_mm"] for run in (stressed, equalized)]
    assert drifts[1] < drifts[0]


def test_target_images_and_config_may_be_chosen(prepare):
    run = prepare("--target", "symmetric-pow2", "--images", "2", "--data.batch_size", "1")
    assert run.title == "small, symmetric-pow2, recipe equalize"  # the default, here as everywhere
    assert [len(images) for images in run.scorer.images] == [1, 1]
    scale = quantizers(run.quantized)["image"].scale.log2()
    assert scale == scale.round()


def test_an_unknown_target_is_found_before_anything_is_read(tmp_path):
    parser = CommandParser("analysis", "")
    add_analysis(parser)
    with pytest.raises(ConfigError, match="unknown target 'per-tensor'; did you mean 'per-tensor-minmax'"):
        parser.parse(["--checkpoint", "none.ckpt", "--out", str(tmp_path), "--target", "per-tensor"])


def test_a_report_is_printed_and_written(tmp_path, capsys):
    table = Table("layer", title="a title")
    table.add_row("a.very.long.name" * 8)
    analysis.report(tmp_path / "new", "found", {"abs_rel": 0.5, "bad": float("nan")}, table, Figure((2, 1)))
    assert json.loads((tmp_path / "new" / "found.json").read_text()) == {"abs_rel": 0.5, "bad": None}
    with Image.open(tmp_path / "new" / "found.png") as picture:
        assert picture.size == (180, 90)
    printed = capsys.readouterr().out
    assert "a.very.long.name" * 8 in printed  # whole, though what captures it claims no more than 80 characters
    assert f"written  {tmp_path / 'new' / 'found'}.json, {tmp_path / 'new' / 'found'}.png" in printed


def test_a_config_that_cannot_be_built_is_the_persons_to_mend(prepare, capsys):
    assert exit_code(lambda: prepare(ENCODER, "resnet81")) == 2
    assert capsys.readouterr().err == "error: timm has no encoder 'resnet81'; did you mean 'resnet18'?\n"


def test_auto_becomes_the_passes_that_were_chosen(prepare, trained_checkpoint):
    run = prepare("--recipe", f"[fold, {STRESS}, auto]")
    names = [each.name for each in run.prepared.recipe.passes]
    assert names[:3] == ["fold", "stress", "equalize"]
    assert "auto" not in names
    assert sum(len(batch) for batch in run.prepared.batches) == 4  # one was held out for the choice only
    loaded = depth_distill.load_network(trained_checkpoint)
    recipe = depth_distill.prepare(loaded, "auto", calibration_images=4).recipe
    assert recipe.name == "auto"
    assert recipe.to_entries()[0] == {"fold": {}}
    assert not recipe.has("auto")
