"""What all tasks share."""

import copy
import threading

import torch

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
