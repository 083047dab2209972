"""load_run: the network and the data of a run, as in validate, or an error that names the problem."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from depth_distill.data.synthetic import SyntheticDepth
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.loading import trained
from depth_distill.loading.trained import build_untrained, load_data, load_run
from depth_distill.models import GraphNetwork
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.head_choice import HeadChoice
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.recipe import NAIVE, load_recipe
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target
from depth_distill.tasks import DepthTask
from tests.distilled_run import config as distillation
from tests.tasks.small_distillation import same_weights

ENCODER = "--model.init_args.network.init_args.encoder"


@pytest.fixture
def checkpoint(trained_checkpoint):
    return trained_checkpoint


@pytest.fixture
def copied(trained_checkpoint, tmp_path):
    """The checkpoint of a copy of the run, to be damaged."""
    shutil.copytree(trained_checkpoint.parents[1], tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / trained_checkpoint.name


def test_the_network_is_that_of_the_checkpoint(checkpoint):
    trained = load_run(checkpoint)
    task = DepthTask.load_from_checkpoint(checkpoint, weights_only=True, map_location="cpu").eval()
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(trained.network(image), task.network(image))
    assert not trained.network.training
    assert trained.bands_m == ((0.5, 2.0), (2.0, 5.0), (5.0, 15.0))


def test_the_score_is_that_of_the_run(checkpoint):
    summary = json.loads((checkpoint.parents[1] / "summary.json").read_text())
    trained = load_run(checkpoint.parent / summary["best_checkpoint"].rsplit("/")[-1])
    found = trained.evaluator()(trained.network)
    # Training keeps images in channels-last memory, where convolutions add in another order.
    assert found["abs_rel"] == pytest.approx(summary["metrics"]["val/abs_rel"], rel=1e-4)


def test_a_trained_student_is_a_float_graph_that_passes_take(distilled_run):
    trained = load_run(distilled_run[0])
    assert isinstance(trained.network, GraphNetwork)
    assert not trained.network.training
    assert not quantizers(trained.network)
    again = fold(trace(trained.network))
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(again(image), trained.network(image))
    state = torch.load(distilled_run[0], weights_only=True)["state_dict"]
    same_weights(
        {f"network.{name}": value for name, value in trained.network.state_dict().items()},
        {name: value for name, value in state.items() if "quantizer" not in name},
    )


def test_the_code_of_a_student_becomes_a_pair(distilled_run):
    trained = load_run(distilled_run[0])
    images = list(trained.calibration_images(4))
    prepared = trained.preparer(load_target("per-tensor-minmax"), images)(load_recipe("[fold, equalize, pair]"))
    with torch.no_grad():
        found = prepared.interface.depth_m(prepared.graph(images[0]))
        torch.testing.assert_close(found, trained.network.predict_depth(images[0]), rtol=1e-3, atol=1e-3)
    assert prepared.interface.outputs.names == ("integer", "fractional")


def test_ptq_of_the_loaded_student_gives_the_vendor_number_of_its_run(distilled_run):
    summary = json.loads((distilled_run[0].parents[1] / "summary.json").read_text())
    trained = load_run(Path(summary["best_checkpoint"]))
    exported = quantize_post_training(
        trace(trained.network), load_target("per-tensor-minmax"), trained.calibration_images(), progress=False
    )
    found = Evaluator(trained.data.val_dataloader(), trained.network.codec, trained.bands_m)(exported)
    # Training keeps images in channels-last memory, where convolutions add in another order, and some codes flip.
    assert found["abs_rel"] == pytest.approx(summary["metrics"]["vendor/abs_rel"], rel=1e-3)


def test_a_part_of_the_split_is_spread_over_its_batches(checkpoint):
    trained = load_run(checkpoint)  # five images, two a batch
    first = {
        count: [int(batch.sample_index[0]) for batch in trained.evaluator(count).batches] for count in (None, 1, 4, 99)
    }
    assert first == {None: [0, 2, 4], 1: [0], 4: [0, 4], 99: [0, 2, 4]}


def test_calibration_images_are_spread_over_the_training_split(checkpoint):
    trained = load_run(checkpoint)
    found = trained.calibration_images(4)
    assert [len(batch) for batch in found] == [2, 2]
    view = trained.data.evaluation_view("train")
    assert torch.equal(torch.cat(list(found)), torch.stack([view[index].image for index in (0, 2, 5, 7)]))
    assert sum(len(batch) for batch in trained.calibration_images(99)) == 8


def test_a_calibration_set_of_the_config_is_used_whole(checkpoint):
    overrides = ["--data.calibration", "SyntheticDepth", "--data.calibration.length", "3"]
    trained = load_run(checkpoint, overrides=[*overrides, "--data.calibration.size", "[32,64]"])
    assert sum(len(batch) for batch in trained.calibration_images(2)) == 3


def test_options_change_the_config(checkpoint):
    trained = load_run(checkpoint, overrides=["--data.batch_size", "5", "--data.val.init_args.seed", "7"])
    (batch,) = trained.evaluator().batches
    expected = SyntheticDepth(5, (32, 64), seed=7)[0].depth_m
    torch.testing.assert_close(batch.depth_m[0], expected)


def test_another_config_may_be_named(checkpoint, tmp_path):
    moved = tmp_path / "moved.ckpt"
    shutil.copy(checkpoint, moved)
    with pytest.raises(ConfigError, match=r"moved\.ckpt is not in a run folder with a config\.yaml"):
        load_run(moved)
    found = load_run(moved, checkpoint.parents[1] / "config.yaml").network.state_dict()
    expected = load_run(checkpoint).network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_missing_checkpoint_names_those_that_are_there(checkpoint):
    with pytest.raises(
        ConfigError, match=r"lst\.ckpt: no such checkpoint; .* there is best\.ckpt, epoch000.*last\.ckpt"
    ):
        load_run(checkpoint.with_name("lst.ckpt"))


@pytest.mark.parametrize("damage", ["cut", "text", "no weights"])
def test_a_damaged_checkpoint(copied, damage):
    if damage == "cut":
        copied.write_bytes(copied.read_bytes()[: copied.stat().st_size // 2])
    elif damage == "text":
        copied.write_text("hello")
    else:
        torch.save({"epoch": 1}, copied)
    with pytest.raises(ConfigError, match=r"last\.ckpt cannot be read as a checkpoint \(.*\): is it truncated\?"):
        load_run(copied)


def test_a_checkpoint_of_another_network(checkpoint):
    with pytest.raises(
        ConfigError,
        match=r"last\.ckpt is of another network than .*config\.yaml describes: .* missing",
    ):
        load_run(checkpoint, overrides=[ENCODER, "mobilenetv3_small_050"])
    with pytest.raises(ConfigError, match=r"another network than .*config\.yaml describes: \d+ have another shape"):
        load_run(checkpoint, overrides=["--model.init_args.network.init_args.decoder_channels", "[16,8,8,8,8]"])


def test_a_config_without_a_depth_net(checkpoint, tmp_path):
    config = yaml.safe_load((checkpoint.parents[1] / "config.yaml").read_text())
    config["model"] = {"class_path": "pytorch_lightning.demos.boring_classes.BoringModel"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"other\.yaml describes no task with a network"):
        load_run(checkpoint, tmp_path / "other.yaml")


def test_an_image_size_that_does_not_fit(checkpoint):
    with pytest.raises(ConfigError, match="image size 48 x 64"):
        load_run(checkpoint, overrides=["--data.image_size", "[48,64]"])


def test_the_config_that_fit_was_given_serves_as_well_as_the_resolved_one(distilled_run, tmp_path):
    """It names the callback shortly, and refers from key to key."""
    checkpoint = distilled_run[0]
    values = distillation(checkpoint)
    values["data"] |= {"depth_range": {"min_m": 0.5, "max_m": 15.0}, "seed": "${seed_everything}"}
    values["model"]["init_args"]["network"]["init_args"]["depth_range"] = {
        "min_m": "${data.depth_range.min_m}",
        "max_m": "${data.depth_range.max_m}",
    }
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(values | {"seed_everything": 3}))
    resolved, found = load_run(checkpoint), load_run(checkpoint, tmp_path / "short.yaml")
    same_weights(found.network.state_dict(), resolved.network.state_dict())
    assert found.data.seed == 3
    far = build_untrained(tmp_path / "short.yaml", ["--data.depth_range.max_m", "10"])
    assert far.network.depth_range.max_m == far.data.depth_range.max_m == 10


def test_a_checkpoint_of_another_codec_is_refused(checkpoint):
    overrides = ["--data.depth_range.max_m", "10", "--model.init_args.network.init_args.depth_range.max_m", "10"]
    with pytest.raises(ConfigError, match=r"another codec .* \(max_depth_m is 15\.0 there and 10\.0 here\)"):
        load_run(checkpoint, overrides=overrides)


def test_data_and_model_may_be_files_beside_the_config(checkpoint, tmp_path):
    values = yaml.safe_load((checkpoint.parents[1] / "config.yaml").read_text())
    for part in ("data", "model"):
        (tmp_path / f"{part}.yaml").write_text(yaml.safe_dump(values[part]))
    (tmp_path / "parts.yaml").write_text(yaml.safe_dump({"data": "data.yaml", "model": "model.yaml"}))
    found = load_run(checkpoint, tmp_path / "parts.yaml")
    same_weights(found.network.state_dict(), load_run(checkpoint).network.state_dict())
    assert len(found.data.train) == 8


def test_before_training_the_network_is_what_the_config_starts_from(checkpoint):
    config = checkpoint.parents[1] / "config.yaml"
    first, second = build_untrained(config), build_untrained(config)
    same_weights(first.network.state_dict(), second.network.state_dict())  # of one seed
    other = build_untrained(config, ["--seed_everything", "5"])
    name = next(each for each in first.network.state_dict() if each.startswith("decoder") and each.endswith("weight"))
    weight = first.network.state_dict()[name]
    assert not torch.equal(weight, other.network.state_dict()[name])
    assert not torch.equal(weight, load_run(checkpoint).network.state_dict()[name])
    assert not first.network.training
    assert sum(map(len, first.calibration_images(4))) == 4


def test_data_alone_does_not_build_the_network(checkpoint):
    config = checkpoint.parents[1] / "config.yaml"
    bands = ["--model.init_args.bands_m", "[[1, 3]]"]
    data, bands_m = load_data(config, [*bands, ENCODER, "resnet81", "--data.batch_size", "3"])
    assert [tuple(band) for band in bands_m] == [(1, 3)]
    assert [len(batch.image) for batch in data.validation_batches()] == [3, 2]


def test_errors_name_what_is_wrong_in_the_config(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"lost\.yaml does not exist"):
        load_run(checkpoint, tmp_path / "lost.yaml")
    (tmp_path / "broken.yaml").write_text("trainer: {max_epochs: 5\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml: not valid YAML: while parsing"):
        load_run(checkpoint, tmp_path / "broken.yaml")
    values = yaml.safe_load((checkpoint.parents[1] / "config.yaml").read_text())
    values["data"]["batch_sise"] = 2
    (tmp_path / "unknown.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="batch_sise"):
        load_run(checkpoint, tmp_path / "unknown.yaml")


def test_another_end_of_the_network_is_told(monkeypatch):
    recipe = load_recipe("auto")
    monkeypatch.setattr(trained, "choose_head", lambda recipe, images, prepare: HeadChoice(NAIVE, "ends in logits"))
    loaded = trained.LoadedRun(None, None, ())
    with pytest.warns(UserWarning, match="ends in logits"):
        assert loaded.chosen_recipe(recipe, load_target("hard-sigmoid"), []) is NAIVE
    told = []
    loaded.chosen_recipe(recipe, load_target("hard-sigmoid"), [], on_head=told.append)
    assert told == ["ends in logits"]
