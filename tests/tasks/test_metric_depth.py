"""What all tasks share."""

import copy
import threading

import pytest
import torch

from depth_distill.errors import ConfigError, DataError
from tests.callbacks import small_run
from tests.data.constant_depth import ConstantDepth
from tests.tasks import small_distillation
from tests.tasks.test_depth import task


class OfAConfig:
    """A factory as the command line makes it: what it holds cannot be copied."""

    def __init__(self):
        self.lock = threading.RLock()

    def __call__(self, parameters):
        return torch.optim.SGD(parameters, lr=0.1)


def test_a_task_with_factories_of_the_command_line_can_be_copied():
    original = task()
    original.optimizer = OfAConfig()
    copied = copy.deepcopy(original)
    assert copied.optimizer is original.optimizer
    pairs = zip(original.state_dict().items(), copied.state_dict().items(), strict=True)
    for (name, value), (other_name, other) in pairs:
        assert name == other_name
        assert torch.equal(value, other)
        assert value.data_ptr() != other.data_ptr()
    assert copied.network is not original.network


class Photos(ConstantDepth):
    """Images without ground truth."""

    has_depth = False


@pytest.mark.parametrize(("stage", "split"), [("fit", "train"), ("fit", "val"), ("validate", "val"), ("test", "test")])
def test_a_split_without_ground_truth_is_an_error_before_the_first_step(tmp_path, stage, split):
    data = small_run.datamodule(**{split: Photos(16, depth_m=0.0)})
    run = small_run.trainer(tmp_path)
    with pytest.raises(DataError, match=rf"^data\.{split} has no ground truth"):
        getattr(run, stage)(small_run.task(), data)
    assert run.global_step == 0


def test_a_student_learns_from_images_alone(tmp_path):
    run = small_distillation.trainer(tmp_path)
    run.fit(small_distillation.task(), small_distillation.datamodule(train=Photos(16, size=(32, 32), depth_m=0.0)))
    assert run.global_step == 4


def test_hyperparameters_are_kept_only_where_they_are_plain_data():
    assert task().hparams == {}  # its arguments are modules, which a checkpoint must not hold


@pytest.fixture
def saved(tmp_path):
    """The checkpoint of a run, and its content."""
    run = small_run.trainer(tmp_path)
    run.fit(small_run.task(), small_run.datamodule())
    run.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt", torch.load(tmp_path / "a.ckpt", weights_only=True)


def rename(content):
    content["state_dict"] = {name.replace("encoder", "backbone"): each for name, each in content["state_dict"].items()}


def poison(content):
    content["state_dict"]["network.head.conv.weight"].fill_(torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, r"a\.ckpt is of another network than the config describes: \d+ of \d+ keys are missing \(encoder"),
        (poison, r"a\.ckpt: the weight head\.conv\.weight is not finite: give an earlier checkpoint"),
        (lambda content: content["codec"].update(max_depth_m=10.0), r"max_depth_m is 10\.0 there and 15\.0 here"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_a_checkpoint_that_does_not_fit_is_one_short_line(saved, change, message, stage):
    path, content = saved
    change(content)
    torch.save(content, path)
    run = small_run.trainer(path.parent, epochs=2)
    with pytest.raises(ConfigError, match=message) as caught:
        getattr(run, stage)(small_run.task(), small_run.datamodule(), ckpt_path=path, weights_only=True)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


def test_weights_without_the_state_of_a_run_are_evaluated_and_not_resumed(saved):
    path, content = saved
    del content["optimizer_states"]
    torch.save(content, path)
    run = small_run.trainer(path.parent, epochs=2)
    run.test(small_run.task(), small_run.datamodule(), ckpt_path=path, weights_only=True, verbose=False)
    with pytest.raises(ConfigError, match=r"a\.ckpt holds weights but no state of a run"):
        run.fit(small_run.task(), small_run.datamodule(), ckpt_path=path, weights_only=True)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda parameters: torch.optim.AdamW(parameters, lr=-1.0), "the optimizer cannot be built: .*learning rate"),
        (lambda parameters: torch.optim.AdamW(parameters, lr=0.0), r"the optimizer's lr: received 0\.0, expected"),
        (lambda parameters: torch.optim.LBFGS(parameters), "the optimizer cannot be built: ValueError: LBFGS"),
    ],
)
def test_an_optimizer_that_cannot_be_is_one_line_before_the_first_step(tmp_path, optimizer, message):
    given = small_run.task()
    given.optimizer = optimizer
    run = small_run.trainer(tmp_path)
    with pytest.raises(ConfigError, match=message):
        run.fit(given, small_run.datamodule())
    assert run.global_step == 0
