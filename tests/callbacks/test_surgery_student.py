"""A student whose activations and padding were replaced: trained, kept, resumed and loaded."""

import copy
import re

import pytest
import torch
import yaml
from torch import nn

from depth_distill.callbacks import FakeQuant, FeatureHooks
from depth_distill.cli import main
from depth_distill.loading.trained import load_run
from depth_distill.losses import FeatureNormalizedMSE
from depth_distill.models import DepthNet
from tests.distilled_run import config
from tests.quantization.networks import state_of
from tests.tasks.small_distillation import (
    STEPS_AN_EPOCH,
    SmallNet,
    StopAfter,
    datamodule,
    pair,
    same_weights,
    task,
    trainer,
)

RECIPE = ["fold", "replace_activations", "zero_padding", {"equalize": {"max_iterations": 3}}]
MEASURING = ["fold", "replace_gates", "freeze_norms", "nearest_upsampling"]  # no pass that only changes values


def network(**arguments):
    torch.manual_seed(0)
    return DepthNet("test_efficientnet", decoder_channels=(8,) * 5, activation="elu", padding="reflect", **arguments)


def modules(graph, *classes):
    return [each for each in graph.modules() if isinstance(each, classes)]


def test_the_student_is_cut_and_the_teacher_is_not(tmp_path, caplog):
    fitted = task(network=network(), teacher=network(), student_init="teacher", features=[pair("decoder.blocks.?")])
    image = next(iter(datamodule().calibration_dataloader())).image
    with torch.no_grad():
        expected = copy.deepcopy(fitted.teacher).eval().predict_depth(image)
    run = trainer(tmp_path, FakeQuant(recipe=RECIPE), FeatureHooks(), limit_train_batches=1, limit_val_batches=1)
    with caplog.at_level("INFO"):
        run.fit(fitted, datamodule())
    assert re.search(
        r"replace_activations: \d+ activations became ReLU; changes the function: output moved", caplog.text
    )
    student = fitted.network.graph
    assert not modules(student, nn.ELU, nn.SiLU, nn.Hardswish)
    assert all(each.padding_mode == "zeros" for each in modules(student, nn.Conv2d))
    assert modules(fitted.teacher, nn.ELU)
    assert any(each.padding_mode == "reflect" for each in modules(fitted.teacher, nn.Conv2d))
    with torch.no_grad():
        torch.testing.assert_close(fitted.teacher.predict_depth(image), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("recipe", [RECIPE, MEASURING], ids=["cut", "measured"])
def test_structure_alone_fits_what_was_prepared_on_images(recipe):
    measured, shaped = (task(network=network(), teacher=network()) for _ in range(2))
    images = [batch.image for batch in datamodule().calibration_dataloader()]
    FakeQuant(recipe=recipe).prepare(measured, images)
    FakeQuant(recipe=recipe).prepare(shaped)
    shaped.network.load_state_dict(measured.network.state_dict())
    with torch.no_grad():
        assert torch.equal(shaped.network.eval()(images[0]), measured.network.eval()(images[0]))


def test_a_pass_that_measures_gets_images_though_none_changes_values_only(tmp_path):
    fitted = task(network=network(), teacher=network())
    reference = task(network=network(), teacher=network())
    FakeQuant(recipe=MEASURING).prepare(reference, [batch.image for batch in datamodule().calibration_dataloader()])
    expected = state_of(reference.network)
    run = trainer(tmp_path, FakeQuant(recipe=MEASURING), limit_train_batches=0, limit_val_batches=0)
    run.fit(fitted, datamodule())
    weights = {name: value for name, value in fitted.network.state_dict().items() if name.endswith("weight")}
    same_weights(weights, {name: expected[name] for name in weights})


def smooth(seed):
    """The small network with ELU and reflecting padding."""
    small = SmallNet(seed=seed)
    for name, module in list(small.named_modules()):
        if isinstance(module, nn.ReLU):
            small.set_submodule(name, nn.ELU())
        elif isinstance(module, nn.Conv2d) and module.padding != (0, 0):
            reflecting = nn.Conv2d(
                module.in_channels, module.out_channels, 3, module.stride, 1, bias=False, padding_mode="reflect"
            )
            reflecting.load_state_dict(module.state_dict())
            small.set_submodule(name, reflecting)
    return small


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    def student():
        return task(network=smooth(0), teacher=smooth(1), features=[pair(loss=FeatureNormalizedMSE("channel"))])

    whole, halved, resumed = student(), student(), student()
    trainer(tmp_path, FakeQuant(recipe=RECIPE), FeatureHooks(), epochs=2).fit(whole, datamodule())
    stopped = trainer(tmp_path, FakeQuant(recipe=RECIPE), FeatureHooks(), StopAfter(tmp_path, 4), epochs=2)
    with pytest.raises(InterruptedError):
        stopped.fit(halved, datamodule())
    run = trainer(tmp_path, FakeQuant(recipe=RECIPE), FeatureHooks(), epochs=2)
    run.fit(resumed, datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert run.global_step == 2 * STEPS_AN_EPOCH
    same_weights(whole.state_dict(), resumed.state_dict())
    assert not modules(resumed.network, nn.ELU)


@pytest.mark.slow
def test_fit_checkpoint_resume_and_load(tmp_path, capsys):
    values = config("unused.ckpt")
    arguments = values["model"]["init_args"]
    arguments["network"]["init_args"] |= {"activation": "elu", "padding": "reflect"}
    arguments |= {"teacher_checkpoint": None, "hints": []}
    values["trainer"]["callbacks"][0]["init_args"]["recipe"] = RECIPE
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    assert main(["fit", "--config", str(tmp_path / "student.yaml"), "--run_dir", str(run)]) == 0
    last = run / "checkpoints" / "last.ckpt"
    first = torch.load(last, weights_only=True)
    again = ["fit", "--config", str(run / "config.yaml"), "--trainer.max_epochs", "2", "--ckpt_path", str(last)]
    assert main(again) == 0
    kept = torch.load(last, weights_only=True)
    assert kept["epoch"] == first["epoch"] + 1

    loaded = load_run(last)
    graph = loaded.network.graph
    assert not modules(graph, nn.ELU)
    assert all(each.padding_mode == "zeros" for each in modules(graph, nn.Conv2d))
    state = {name.removeprefix("network."): value for name, value in kept["state_dict"].items()}
    own = loaded.network.state_dict()
    assert own
    same_weights(own, {name: state[name] for name in own})
