"""Learning-rate schedules that are stepped once per optimizer step."""

import inspect
import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from depth_distill.errors import ConfigError, building

LRSchedulerFactory = Callable[[Optimizer, int], LRScheduler]
"""Builds a scheduler for an optimizer and a total number of steps.

Any torch scheduler whose second argument is a number of steps can be used: ``CosineAnnealingLR`` (``T_max``),
``PolynomialLR`` (``total_iters``), and :class:`WarmupCosineLR`.
"""

_TOTALS = ("total_steps", "T_max", "total_iters")  # what torch calls the number of steps of a run


def built_scheduler(factory: LRSchedulerFactory, optimizer: Optimizer, steps: float) -> LRScheduler:
    """The scheduler of a run.

    Args:
        factory: see :data:`LRSchedulerFactory`.
        optimizer: its optimizer.
        steps: number of optimizer steps of the whole run.

    Raises:
        ConfigError: the run has no end, or the second argument of a scheduler of torch is no number of steps: a
            ``StepLR`` would never step.
    """
    if not math.isfinite(steps):
        raise ConfigError("a learning-rate schedule needs to know the end of the run: set trainer.max_epochs")
    with building("the lr_scheduler"):
        scheduler = factory(optimizer, int(steps))
    if inspect.isfunction(factory):  # written by a person, who gives the steps to what they are of
        return scheduler
    kind = type(scheduler)
    second = list(inspect.signature(kind).parameters)[1]
    if kind.__module__.startswith("torch.") and second not in _TOTALS:
        raise ConfigError(
            f"lr_scheduler: the second argument of {kind.__name__} is {second}, not the number of steps of the run; "
            "expected WarmupCosineLR, CosineAnnealingLR or PolynomialLR"
        )
    return scheduler


class WarmupCosineLR(LambdaLR):
    """Linear warm-up, then half a cosine down (Loshchilov & Hutter 2017, eq. 5, one cycle).

    Args:
        optimizer: optimizer whose learning rate is the peak.
        total_steps: number of optimizer steps of the whole run.
        warmup: share of the steps that the warm-up takes.
        final: learning rate at the end, as a share of the peak.

    Raises:
        ConfigError: ``warmup`` outside [0, 1) or ``final`` outside [0, 1].
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.1, final: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise ConfigError(f"warmup is a share of all steps in [0, 1), got {warmup}")
        if not 0 <= final <= 1:
            raise ConfigError(f"final is a share of the peak learning rate in [0, 1], got {final}")
        warmup_steps = max(1, round(warmup * total_steps))

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

        super().__init__(optimizer, factor)
