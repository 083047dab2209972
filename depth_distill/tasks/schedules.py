"""Learning-rate schedules that are stepped once per optimizer step."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from depth_distill.errors import ConfigError

LRSchedulerFactory = Callable[[Optimizer, int], LRScheduler]
"""Builds a scheduler for an optimizer and a total number of steps.

Any torch scheduler whose second argument is a number of steps can be used: ``CosineAnnealingLR`` (``T_max``),
``PolynomialLR`` (``total_iters``), and :class:`WarmupCosineLR`.
"""


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
