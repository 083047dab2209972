"""The learning rate rises, peaks and falls where it should."""

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.tasks.schedules import WarmupCosineLR


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
