"""DistillationTask: it learns what the teacher says by the terms it logs, and keeps the teacher out of checkpoints."""

import math

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from depth_distill.callbacks import FakeQuant, FeatureHooks
from depth_distill.errors import ConfigError
from depth_distill.losses import (
    AttentionTransfer,
    CompositeLoss,
    FeatureNormalizedMSE,
    KurtosisPenalty,
    L1Loss,
    LogL1Loss,
    MSELoss,
    SILogLoss,
    UncertaintyWeights,
)
from depth_distill.models import GraphNetwork
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.types import DepthRange
from tests.data.noisy_depth import NoisyDepth
from tests.tasks.small_distillation import Losses, SmallNet, datamodule, pair, same_weights, task, trainer


def fit(folder, *callbacks, epochs=1, data=None, **kwargs):
    fitted, losses = task(**kwargs), Losses()
    trainer(folder, *callbacks, FeatureHooks(), losses, epochs=epochs).fit(fitted, data or datamodule())
    return fitted, losses.steps


def first_batch(**kwargs):
    return next(iter(datamodule(**kwargs).train_dataloader()))


def plain_net(seed=0):
    """Without batch norm: it computes the same in training and evaluation."""
    network = SmallNet(seed=seed)
    return GraphNetwork(fold(trace(network)), network)


def l1(prediction_m, target_m):
    return (prediction_m - target_m).abs().mean().item()


class Metres(nn.Module):
    """A teacher that is no network of ours: a constant, or what is brightest is far away."""

    def __init__(self, far_m=4.0, slope_m=0.5):
        super().__init__()
        self.far_m, self.slope_m = far_m, slope_m
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, image):
        return self.gain * (self.far_m + self.slope_m * image.mean(1, keepdim=True))


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path):
    student = plain_net()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    fitted, steps = fit(
        tmp_path, network=student, teacher=None, student_init="teacher", features=[pair()], hints=[pair("decoder.up")]
    )
    assert [step["train/loss"] for step in steps] == [0.0] * len(steps)
    # The gradient of |x| at 0 is 0, and that of every square.
    same_weights(fitted.network.state_dict(), before)


def test_a_folded_student_is_its_teacher_up_to_rounding(tmp_path):
    _, steps = fit(
        tmp_path,
        FakeQuant(start_epoch=1),
        teacher=None,
        student_init="teacher",
        output=CompositeLoss({"mse": MSELoss()}),
        features=[pair(loss=FeatureNormalizedMSE())],
    )
    # Squares of relative errors of 1e-6, float32 through five convolutions.
    assert all(step["train/loss"] < 1e-9 for step in steps)


def test_every_term_is_logged_and_the_total_is_their_weighted_sum(tmp_path):
    _, steps = fit(
        tmp_path,
        output=CompositeLoss({"l1": L1Loss(), "log_l1": LogL1Loss()}, {"log_l1": 0.5}),
        features=[pair("encoder.layer?")],
        hints=[pair("decoder.up", loss=AttentionTransfer())],
        supervised=CompositeLoss({"silog": SILogLoss(), "l1": L1Loss()}, {"l1": 0.1}),
        alpha=0.7,
        beta=0.2,
        gamma=0.4,
        regularizers={"kurtosis": KurtosisPenalty()},
        regularizer_weights={"kurtosis": 0.01},
    )
    names = {
        "loss",
        "output",
        "output/l1",
        "output/log_l1",
        "feature",
        "feature/encoder.layer1",
        "feature/encoder.layer2",
    }
    names |= {"hint", "hint/decoder.up", "supervised", "supervised/silog", "supervised/l1", "regularizer/kurtosis"}
    for step in steps:
        found = {name.removeprefix("train/"): value for name, value in step.items() if name.startswith("train/")}
        assert set(found) == names

        def close(value):
            return pytest.approx(value, rel=1e-5)  # float32

        assert found["output"] == close(found["output/l1"] + 0.5 * found["output/log_l1"])
        assert found["feature"] == close((found["feature/encoder.layer1"] + found["feature/encoder.layer2"]) / 2)
        assert found["hint"] == close(found["hint/decoder.up"])
        assert found["supervised"] == close(found["supervised/silog"] + 0.1 * found["supervised/l1"])
        assert found["loss"] == close(
            found["output"]
            + 0.7 * found["feature"]
            + 0.2 * found["hint"]
            + 0.4 * found["supervised"]
            + 0.01 * found["regularizer/kurtosis"]
        )


def test_a_term_without_weight_is_logged_and_not_learned(tmp_path):
    _, alone = fit(tmp_path)
    _, steps = fit(tmp_path, features=[pair()], alpha=0.0)
    assert all(step["train/feature"] > 0 for step in steps)
    assert [step["train/loss"] for step in steps] == [step["train/loss"] for step in alone]


def test_it_learns_what_the_teacher_says_without_ground_truth(tmp_path):
    data = datamodule(train=NoisyDepth(16, has_depth=False))
    assert not first_batch(train=NoisyDepth(16, has_depth=False)).valid.any()
    fitted, steps = fit(tmp_path, epochs=15, data=data, teacher=Metres(), features=())
    assert steps[-1]["train/loss"] < steps[0]["train/loss"] / 5
    with torch.no_grad():
        depth_m = fitted.eval()(first_batch().image)
    assert depth_m.mean().item() == pytest.approx(4.0, rel=0.1)


def test_supervision_where_there_is_no_ground_truth_is_no_number_that_spreads(tmp_path):
    fitted, steps = fit(
        tmp_path,
        data=datamodule(train=NoisyDepth(16, has_depth=False)),
        supervised=CompositeLoss({"silog": SILogLoss(), "l1": L1Loss()}),
        gamma=1.0,
        confidence=0.1,
    )
    assert all(math.isfinite(step["train/loss"]) for step in steps)
    assert all(bool(value.isfinite().all()) for value in fitted.state_dict().values())


def test_the_teacher_is_frozen_in_evaluation_mode_and_in_no_checkpoint(tmp_path):
    seen = []

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.append(any(module.training for module in pl_module.teacher.modules()))
            seen.append(any(each.grad is not None for each in pl_module.teacher.parameters()))

    fitted, losses = task(features=[pair()]), Losses()
    before = {name: value.clone() for name, value in fitted.teacher.state_dict().items()}
    run = trainer(tmp_path, Look(), FeatureHooks(), losses, epochs=2)
    run.fit(fitted, datamodule())
    assert len(seen) == 16
    assert not any(seen)
    same_weights(fitted.teacher.state_dict(), before)
    assert not any(each.requires_grad for each in fitted.teacher.parameters())
    optimized = {id(each) for group in run.optimizers[0].param_groups for each in group["params"]}
    assert not optimized & {id(each) for each in fitted.teacher.parameters()}
    run.save_checkpoint(tmp_path / "student.ckpt")
    state = torch.load(tmp_path / "student.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"network"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("network.head.0.bias"), r"1 of \d+ keys are missing \(head\.0\.bias\)"),
        (lambda state: state.update({"network.tail": torch.zeros(1)}), r"1 of \d+ are unexpected \(tail\)"),
        (lambda state: state.update({"else.tail": torch.zeros(1)}), r"1 are unexpected \(else\.tail\)"),
        (
            lambda state: state.update({"network.head.0.bias": torch.zeros(2)}),
            r"1 have another shape \(head\.0\.bias is \(2,\)",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, message):
    fitted = task()
    state = fitted.state_dict()
    change(state)
    with pytest.raises(ConfigError, match=message):
        task().load_state_dict(state)


def test_a_state_without_teacher_and_with_leftovers_of_training_fits():
    state = task(network=SmallNet(seed=3)).state_dict()
    assert not any(name.startswith("teacher.") for name in state)
    state["adapters.feature/encoder_layer1/encoder_layer1.weight"] = torch.zeros(1)
    loaded = task()
    loaded.load_state_dict(state)
    same_weights(loaded.network.state_dict(), SmallNet(seed=3).state_dict())


def test_in_training_an_adapter_without_its_layer_is_refused(tmp_path):
    wide = SmallNet(width=12, seed=1)
    run = trainer(tmp_path, FeatureHooks())
    run.fit(task(teacher=wide, features=[pair()]), datamodule())
    run.save_checkpoint(tmp_path / "student.ckpt")
    with pytest.raises(ConfigError, match=r"2 are unexpected \(adapters\.feature/encoder_layer1/encoder_layer1"):
        trainer(tmp_path, FeatureHooks(), epochs=2).fit(
            task(teacher=wide), datamodule(), ckpt_path=tmp_path / "student.ckpt", weights_only=True
        )


@pytest.mark.parametrize("teacher", [lambda: SmallNet(width=24, seed=1), Metres], ids=["wider", "any module"])
def test_the_teacher_may_be_another_network(tmp_path, teacher):
    student, batch = SmallNet().train(), first_batch()
    _, steps = fit(tmp_path, teacher=teacher())
    with torch.no_grad():
        said = teacher().eval()
        depth_m = said(batch.image) if isinstance(said, Metres) else said.predict_depth(batch.image)
        expected = l1(student.codec.decode(student(batch.image)), depth_m)
    assert steps[0]["train/loss"] == pytest.approx(expected, rel=1e-5)


def test_in_codes_heads_may_differ(tmp_path):
    student, batch = SmallNet().train(), first_batch()
    _, steps = fit(tmp_path, teacher=Metres(far_m=12.0, slope_m=4.0), output_space="codes")
    with torch.no_grad():
        said = student.codec.encode(Metres(far_m=12.0, slope_m=4.0)(batch.image))  # beyond 15 m it is code 1
        expected = l1(student(batch.image), said)
    assert said.max() == 1
    assert steps[0]["train/loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("confidence", [0.05, 0.3])
def test_a_teacher_that_is_far_from_the_truth_is_not_followed_there(tmp_path, confidence):
    student, batch = SmallNet().train(), first_batch()
    _, steps = fit(tmp_path, teacher=Metres(), confidence=confidence)
    with torch.no_grad():
        said, depth_m = Metres()(batch.image), student.codec.decode(student(batch.image))
    trusted = (said - batch.depth_m).abs() / batch.depth_m <= confidence
    assert 0 < trusted.sum() < trusted.numel()
    assert steps[0]["train/loss"] == pytest.approx(L1Loss()(depth_m, said, trusted).item(), rel=1e-5)


def test_where_nothing_was_measured_the_teacher_is_trusted(tmp_path):
    data = {"train": NoisyDepth(16, has_depth=False)}
    _, strict = fit(tmp_path, data=datamodule(**data), teacher=Metres(), confidence=1e-9)
    _, plain = fit(tmp_path, data=datamodule(**data), teacher=Metres())
    assert [step["train/loss"] for step in strict] == [step["train/loss"] for step in plain]


def test_weights_that_find_their_own_scale(tmp_path):
    fitted, steps = fit(tmp_path, features=[pair()], balance=UncertaintyWeights, epochs=2)
    assert fitted.balance.names == ("feature", "output")
    # It begins as the fixed weights do, and then learns.
    first = steps[0]
    assert first["train/loss"] == pytest.approx(first["train/output"] + 0.5 * first["train/feature"], rel=1e-4)
    assert all(fitted.balance.log_variances != 0)


def starts(folder, **kwargs):
    fitted = task(**kwargs)
    trainer(folder, FeatureHooks(), limit_train_batches=0).fit(fitted, datamodule())
    return fitted.network.state_dict()


def test_the_student_starts_from_the_teacher_from_itself_or_from_a_file(tmp_path):
    teacher, own, other = (SmallNet(seed=seed) for seed in (1, 0, 2))
    torch.save(
        {"state_dict": {f"network.{name}": value for name, value in other.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    same_weights(starts(tmp_path, student_init="teacher"), teacher.state_dict())
    same_weights(starts(tmp_path, student_init="scratch"), own.state_dict())
    same_weights(starts(tmp_path, student_init=tmp_path / "a.ckpt"), other.state_dict())


def test_the_teacher_comes_from_its_checkpoint(tmp_path):
    other = SmallNet(seed=2)
    torch.save(
        {"state_dict": {f"network.{name}": value for name, value in other.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    fitted, _ = fit(tmp_path, teacher=None, teacher_checkpoint=tmp_path / "a.ckpt")
    same_weights(fitted.teacher.state_dict(), other.state_dict())
    with pytest.raises(ConfigError, match=r"b\.ckpt does not exist"):
        fit(tmp_path, teacher_checkpoint=tmp_path / "b.ckpt")
    with pytest.raises(
        ConfigError, match=r"a\.ckpt is of another network than model\.teacher .* describes: .* have another shape"
    ):
        fit(tmp_path, teacher=SmallNet(width=12), teacher_checkpoint=tmp_path / "a.ckpt")


def test_resuming_with_another_teacher_is_refused(tmp_path):
    for name, seed in (("a.ckpt", 2), ("b.ckpt", 3)):
        torch.save(SmallNet(seed=seed).state_dict(), tmp_path / name)
    run = trainer(tmp_path, FeatureHooks())
    run.fit(task(teacher_checkpoint=tmp_path / "a.ckpt"), datamodule())
    run.save_checkpoint(tmp_path / "student.ckpt")
    resumed = {"ckpt_path": tmp_path / "student.ckpt", "weights_only": True}
    again = trainer(tmp_path, FeatureHooks(), epochs=2)
    again.fit(task(teacher_checkpoint=tmp_path / "a.ckpt"), datamodule(), **resumed)
    assert again.current_epoch == 2
    with pytest.raises(ConfigError, match=r"b\.ckpt has other weights than the teacher that this student began with"):
        trainer(tmp_path, FeatureHooks(), epochs=2).fit(
            task(teacher_checkpoint=tmp_path / "b.ckpt"), datamodule(), **resumed
        )


@pytest.mark.parametrize("teacher", [lambda: SmallNet(width=12), Metres])
def test_a_student_of_another_architecture_cannot_start_from_the_teacher(tmp_path, teacher):
    with pytest.raises(
        ConfigError, match=r"student_init: teacher needs a student of the teacher's architecture.*'scratch'"
    ):
        fit(tmp_path, teacher=teacher(), student_init="teacher")


def test_a_student_whose_codes_mean_something_else_cannot_start_from_the_teacher(tmp_path):
    # The state dicts fit; a teacher that is rescaled with its student would get the student's codec.
    teacher = SmallNet()
    teacher.depth_range = DepthRange(0.5, 10.0)
    with pytest.raises(ConfigError, match="needs a student of the teacher's architecture, head, codec and depth range"):
        fit(tmp_path, teacher=teacher, student_init="teacher")


def test_evaluation_needs_no_checkpoint_of_the_teacher(tmp_path):
    fitted = task(teacher_checkpoint=tmp_path / "gone.ckpt")
    (found,) = trainer(tmp_path).validate(fitted, datamodule(), verbose=False)
    (expected,) = trainer(tmp_path).validate(task(), datamodule(), verbose=False)
    assert found == expected


def test_ground_truth_alone_needs_no_teacher_but_depth(tmp_path):
    supervised = {"output": None, "supervised": CompositeLoss({"l1": LogL1Loss()}), "gamma": 1.0}
    asked = task(**supervised)
    asked.teacher_outputs = lambda batch: pytest.fail("the teacher was asked")
    losses = Losses()
    trainer(tmp_path, losses).fit(asked, datamodule())
    assert losses.steps
    for step in losses.steps:
        assert step["train/loss"] == step["train/supervised"] > 0
        assert "train/output" not in step
    assert asked.learns_from_ground_truth
    assert not task().learns_from_ground_truth


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gamma": 1.0}, "gamma is 1.0, but the config has no terms under supervised"),
        ({"output": None}, "nothing to learn from: give output, features or hints of the teacher, or ground truth"),
        ({"output": None, "features": [pair()], "alpha": 0.0}, "at least one term needs a weight above 0"),
    ],
)
def test_a_loss_that_learns_nothing_is_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        task(**kwargs)


def test_a_weight_of_a_regularizer_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="weights has 'kurtosys', but there is no such term; did you mean 'kurtosis'"):
        task(regularizers={"kurtosis": KurtosisPenalty()}, regularizer_weights={"kurtosys": 0.01})
