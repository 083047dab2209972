"""An optimizer for weights of very unequal ranges, such as those of a network that cannot be equalized."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from depth_distill.errors import ConfigError


class GainAdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019), and a gain for each output and each input channel of a weight.

    A step of Adam is as large as the learning rate, for a weight of 0.01 as for one of 1: channels whose ranges differ
    16 times are not levelled in some hundred steps of 1e-4. A gain multiplies a whole channel. Its logarithm is learned
    at a rate of its own, by ``dL/d ln a = sum w dL/dw`` over the channel, and it is multiplied into the weight at once:
    the parametrization of Salimans & Kingma (2016), for both dimensions and without parameters to fold away. The only
    input channel of a weight, such as a depthwise one, has none.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        gains: learning rate of the logarithms of the gains, as a multiple of ``lr``, whose schedule it follows; 0 for
            none.
        betas: decay of the averages of gradients and of their squares.
        eps: added to the root of the averaged squares.
        weight_decay: decoupled weight decay.

    Raises:
        ConfigError: a value that is not in its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        gains: float = 100.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not 0 <= gains < math.inf:
            raise ConfigError(f"gains: received {gains}, expected 0 or more")
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"betas: received {betas}, expected two numbers in [0, 1)")
        super().__init__(
            params, {"lr": lr, "gains": gains, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        )

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, lr = self.state[parameter], group["lr"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)  # a tensor, so that checkpoints hold nothing else
        state["step"] += 1
        gain = self._gain(parameter, gradient, group) if group["gains"] and parameter.ndim > 1 else None
        direction = _adam(state, "weight", gradient, int(state["step"]), group)
        parameter.mul_(1 - lr * group["weight_decay"]).sub_(direction.mul_(lr))
        if gain is not None:
            parameter.mul_(gain)

    def _gain(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """What each weight is multiplied by: the change of the gains of its output and its input channel."""
        state, by_weight = self.state[parameter], parameter * gradient
        moved: Tensor | float = 0.0
        for dim in (0, 1):
            if dim == 1 and parameter.shape[dim] == 1:
                continue  # the gain of the only input channel, such as that of a depthwise weight, would be one of all
            others = [each for each in range(parameter.ndim) if each != dim]
            of_log_gain = by_weight.sum(others, keepdim=True)
            moved = moved + _adam(state, f"gain_{dim}", of_log_gain, int(state["step"]), group)
        return torch.exp(-group["gains"] * group["lr"] * torch.as_tensor(moved))


def _adam(state: dict[str, Any], name: str, gradient: Tensor, step: int, group: dict[str, Any]) -> Tensor:
    """Adam's direction for a gradient (Kingma & Ba 2015, algorithm 1); its averages are kept in ``state``."""
    first, second = group["betas"]
    for average in ("average", "square"):
        if f"{name}_{average}" not in state:
            state[f"{name}_{average}"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
    mean = state[f"{name}_average"].lerp_(gradient, 1 - first)
    square = state[f"{name}_square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    scale = (square / (1 - second**step)).sqrt_().add_(group["eps"])
    return (mean / (1 - first**step)).div_(scale)
