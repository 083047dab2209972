"""The learning rate rises, peaks and falls where it should."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, OneCycleLR, PolynomialLR, StepLR

from depth_distill.errors import ConfigError
from depth_distill.tasks.schedules import WarmupCosineLR, built_scheduler


def rates(steps, **kwargs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosineLR(optimizer, steps, **kwargs)
    seen = []
    for _ in range(steps):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return seen


def test_warm_up_is_linear_and_the_rest_half_a_cosine():
    seen = rates(110, warmup=10 / 110)
    assert seen[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert max(seen) == pytest.approx(2.0)
    assert seen[60] == pytest.approx(1.0)  # half-way down
    assert seen[-1] < 0.001


def test_the_end_is_a_share_of_the_peak():
    assert rates(1000, warmup=0.0, final=0.1)[-1] == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("wrong", [{"warmup": 1.0}, {"warmup": -0.1}, {"final": 1.5}])
def test_shares_outside_their_interval_are_refused(wrong):
    with pytest.raises(ConfigError, match="share"):
        rates(10, **wrong)


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)


def test_a_function_gives_the_steps_to_what_they_are_of():
    made = built_scheduler(lambda each, steps: OneCycleLR(each, 0.1, total_steps=steps), optimizer(), 100)
    assert made.total_steps == 100
    assert isinstance(built_scheduler(lambda each, steps: StepLR(each, steps // 3), optimizer(), 100), StepLR)


@pytest.mark.parametrize("factory", [StepLR, ExponentialLR])
def test_a_scheduler_that_takes_something_else_than_steps_is_refused(factory):
    with pytest.raises(ConfigError, match=f"the second argument of {factory.__name__} is .*, not the number of steps"):
        built_scheduler(factory, optimizer(), 100)


@pytest.mark.parametrize("factory", [WarmupCosineLR, CosineAnnealingLR, PolynomialLR])
def test_those_that_take_the_number_of_steps_are_built(factory):
    assert isinstance(built_scheduler(factory, optimizer(), 100), factory)


def test_a_run_without_an_end_has_no_schedule():
    with pytest.raises(ConfigError, match=r"set trainer\.max_epochs"):
        built_scheduler(WarmupCosineLR, optimizer(), float("inf"))
