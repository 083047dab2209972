"""What all tasks share."""

import copy
import threading

import pytest
import torch

from depth_distill.errors import DataError
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
