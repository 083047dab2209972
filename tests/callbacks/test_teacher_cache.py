"""TeacherCache: the teacher says everything once, and nothing else changes."""

import pytest
import torch
from torchvision.transforms import v2

from depth_distill.callbacks import FakeQuant, FeatureHooks, TeacherCache
from depth_distill.errors import ConfigError
from tests.callbacks.small_run import FailAt
from tests.data.noisy_depth import NoisyDepth
from tests.tasks.small_distillation import (
    STEPS_AN_EPOCH,
    Losses,
    SmallNet,
    StopAfter,
    datamodule,
    pair,
    same_weights,
    task,
    trainer,
)

SAMPLES = 4 * STEPS_AN_EPOCH


class CountedNet(SmallNet):
    """Remembers how many images it saw."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.images = 0

    def forward(self, image):
        self.images += len(image)
        return super().forward(image)


def teacher():
    return CountedNet(seed=1)


def data(**kwargs):
    return datamodule(**{"views": 2, "augment": [v2.RandomHorizontalFlip(), v2.ColorJitter(0.3)]} | kwargs)


def fit(folder, *callbacks, epochs=4, given=None, **kwargs):
    """The fitted task, its losses, and how many training images the teacher saw."""
    kwargs = {"teacher": teacher(), "features": [pair()], "hints": [pair("decoder.up")]} | kwargs
    fitted, losses = task(**kwargs), Losses()
    trainer(folder, *callbacks, FeatureHooks(), losses, epochs=epochs).fit(fitted, given or data())
    looks = 1 + sum(isinstance(each, TeacherCache) for each in callbacks)  # of one image, at the start
    return fitted, losses.total, getattr(fitted.teacher, "images", looks) - looks


def caches(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_teacher_sees_each_view_of_a_sample_once(tmp_path):
    assert fit(tmp_path)[2] == 4 * SAMPLES
    assert fit(tmp_path, TeacherCache(tmp_path / "cache"))[2] == 2 * SAMPLES
    assert len(caches(tmp_path / "cache")) == 1


def test_with_float32_nothing_else_changes(tmp_path):
    plain, expected, _ = fit(tmp_path)
    cached, found, _ = fit(tmp_path, TeacherCache(tmp_path / "cache", dtype="float32"))
    assert found == expected
    same_weights(cached.state_dict(), plain.state_dict())


def test_with_float16_features_are_rounded_and_depth_is_not(tmp_path):
    _, expected, _ = fit(tmp_path)
    _, found, _ = fit(tmp_path, TeacherCache(tmp_path / "cache"))
    assert found != expected
    assert found == pytest.approx(expected, rel=1e-3)  # float16 keeps a value to 2^-11
    _, expected, _ = fit(tmp_path, features=(), hints=())
    _, found, _ = fit(tmp_path, TeacherCache(tmp_path / "depth"), features=(), hints=())
    assert found == expected


def test_a_second_run_asks_nothing_and_learns_the_same(tmp_path):
    first, cold, _ = fit(tmp_path, TeacherCache(tmp_path / "cache"))
    second, warm, asked = fit(tmp_path, TeacherCache(tmp_path / "cache"))
    assert asked == 0
    assert warm == cold
    same_weights(second.state_dict(), first.state_dict())


def test_a_fake_quantized_student_uses_the_same_cache(tmp_path):
    fit(tmp_path, TeacherCache(tmp_path / "cache"))
    assert fit(tmp_path, FakeQuant(), TeacherCache(tmp_path / "cache"))[2] == 0


@pytest.mark.parametrize("steps", [2, STEPS_AN_EPOCH + 1])
def test_a_resumed_run_asks_for_the_rest(tmp_path, steps):
    whole, _, _ = fit(tmp_path, TeacherCache(tmp_path / "whole"))
    cut = task(teacher=teacher(), features=[pair()], hints=[pair("decoder.up")])
    with pytest.raises(InterruptedError):
        trainer(tmp_path, TeacherCache(tmp_path / "cache"), FeatureHooks(), StopAfter(tmp_path, steps), epochs=4).fit(
            cut, data()
        )
    resumed = task(teacher=teacher(), features=[pair()], hints=[pair("decoder.up")])
    run = trainer(tmp_path, TeacherCache(tmp_path / "cache"), FeatureHooks(), epochs=4)
    run.fit(resumed, data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resumed.teacher.images - 2 == 2 * SAMPLES - 4 * steps
    same_weights(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("changed", "given"),
    [
        ({"teacher": CountedNet(seed=2)}, {}),
        ({"features": [pair("encoder.layer2")]}, {}),
        ({}, {"augment": [v2.RandomHorizontalFlip(), v2.ColorJitter(0.4)]}),
        ({}, {"views": 3}),
        ({}, {"seed": 1}),
        ({}, {"image_size": (32, 64)}),
        ({}, {"resize": "pad"}),
        ({}, {"train": NoisyDepth(SAMPLES, seed=7)}),
        ({}, {"train": NoisyDepth(SAMPLES + 1)}),
    ],
    ids=["teacher", "layer", "augment", "views", "seed", "size", "resize", "samples", "number"],
)
def test_what_answers_depend_on_gets_another_folder(tmp_path, changed, given):
    fit(tmp_path, TeacherCache(tmp_path / "cache"), epochs=1)
    asked = fit(tmp_path, TeacherCache(tmp_path / "cache"), epochs=1, given=data(**given), **changed)[2]
    assert asked == SAMPLES
    assert len(caches(tmp_path / "cache")) == 2


def test_what_answers_do_not_depend_on_keeps_the_folder(tmp_path):
    fit(tmp_path, TeacherCache(tmp_path / "cache"), epochs=1)
    asked = fit(tmp_path, TeacherCache(tmp_path / "cache"), epochs=1, given=data(batch_size=8), alpha=0.1)[2]
    assert asked == 0
    assert len(caches(tmp_path / "cache")) == 1


@pytest.mark.parametrize("views", [None, "no data module"])
def test_without_views_it_says_what_it_needs(tmp_path, views):
    given = datamodule(views=None) if views is None else datamodule(views=2).train_dataloader()
    with pytest.raises(ConfigError, match=r"TeacherCache needs data\.views"):
        trainer(tmp_path, TeacherCache(tmp_path / "cache")).fit(task(), given)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("failing", [False, True], ids=["finished", "failed"])
def test_afterwards_the_teacher_is_asked_again(tmp_path, failing):
    fitted = task(teacher=teacher())
    run = trainer(tmp_path, TeacherCache(tmp_path / "cache"), *[FailAt(2)] * failing)
    if failing:
        with pytest.raises(ValueError, match="no such file"):
            run.fit(fitted, data())
    else:
        run.fit(fitted, data())
    assert fitted.teacher_outputs == fitted.teacher_forward


def test_an_answer_that_was_kept_is_not_of_another_view(tmp_path):
    # Brightness alone: two views of a sample differ in the mean of what a teacher of brightness says.
    class Brightness(torch.nn.Module):
        def forward(self, image):
            return image.mean((1, 2, 3), keepdim=True).expand(-1, 1, *image.shape[-2:]) + 5

    seen = []

    class Keep(Losses):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            said = pl_module.teacher_outputs(batch)["depth_m"]
            seen.append((said - pl_module.teacher(batch.image)).abs().max().item())

    fitted = task(teacher=Brightness())
    trainer(tmp_path, TeacherCache(tmp_path / "cache"), Keep(), epochs=6).fit(
        fitted, data(views=3, augment=[v2.ColorJitter(brightness=0.8)])
    )
    assert max(seen) == pytest.approx(0, abs=1e-6)  # images reach the teacher in another memory order
    assert len(seen) == 6 * STEPS_AN_EPOCH
