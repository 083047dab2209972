"""What tool chains compute in place of a smooth activation, as functions and as a module of a graph."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.target.substitutions import TABLE_BITS, problem_of
from depth_distill.quantization.target.target import ActivationName

Function = Callable[[Tensor], Tensor]
Around = Callable[[Tensor, Function], Tensor]

_TABLE_END = 8.0  # a table covers [-8, 8]: beyond it a sigmoid is closer to its limit than a step of 8 bits


def hard_sigmoid(x: Tensor) -> Tensor:
    """``clip(x / 5 + 1 / 2, 0, 1)``: ONNX's HardSigmoid with its default attributes."""
    return (0.2 * x + 0.5).clamp(0.0, 1.0)


def relu6_sigmoid(x: Tensor) -> Tensor:
    """``ReLU6(x + 3) / 6``: the hard sigmoid of MobileNetV3 (Howard et al. 2019) and of PyTorch."""
    return F.hardsigmoid(x)


def piecewise_sigmoid(x: Tensor) -> Tensor:
    """Four straight lines on either side of 0: the PLAN approximation (Amin, Curtis and Hayes-Gill 1997, table 1)."""
    size = x.abs()
    value = torch.where(size < 1.0, 0.25 * size + 0.5, 0.125 * size + 0.625)
    value = torch.where(size < 2.375, value, 0.03125 * size + 0.84375)
    value = torch.where(size < 5.0, value, torch.ones_like(value))
    return torch.where(x < 0, 1 - value, value)


def table(function: Function, bits: int) -> Function:
    """A function from a table of ``2^bits`` values at evenly spaced inputs in [-8, 8]; the nearest one is taken.

    The gradient is that of the function at the entry that is taken; outside of the table there is none.
    """
    step = 2 * _TABLE_END / (2**bits - 1)

    def looked_up(x: Tensor) -> Tensor:
        inside = x.clamp(-_TABLE_END, _TABLE_END)
        entry = ((inside + _TABLE_END) / step).round() * step - _TABLE_END
        return function(inside + (entry - inside).detach())

    return looked_up


def _tables(function: Function) -> dict[str, Function]:
    return {f"table_{bits}": table(function, bits) for bits in TABLE_BITS}


SUBSTITUTIONS: Mapping[str, Mapping[str, Function]] = {
    "Sigmoid": {
        "hard_sigmoid": hard_sigmoid,
        "relu6_sigmoid": relu6_sigmoid,
        "piecewise_sigmoid": piecewise_sigmoid,
        **_tables(torch.sigmoid),
    },
    "HardSigmoid": {"default_attributes": hard_sigmoid},
    "Tanh": {
        "hard_tanh": F.hardtanh,
        "hard_sigmoid": lambda x: 2 * hard_sigmoid(2 * x) - 1,
        **_tables(torch.tanh),
    },
    "Softplus": {"relu": F.relu, **_tables(F.softplus)},
    "Elu": {"relu": F.relu, **_tables(F.elu)},
    "Swish": {"hard_swish": F.hardswish, "relu": F.relu},
    "Gelu": {
        "tanh": lambda x: F.gelu(x, approximate="tanh"),
        "sigmoid": lambda x: x * torch.sigmoid(1.702 * x),  # Hendrycks and Gimpel 2016, section 2
        "relu": F.relu,
    },
    "HardSwish": {"swish": F.silu, "relu": F.relu},
}
"""By operator, what is known to be computed in its place, by name; see
:data:`~depth_distill.quantization.target.substitutions.SUBSTITUTION_NAMES`."""

EXACT: Mapping[str, Function] = {
    "Sigmoid": torch.sigmoid,
    "HardSigmoid": F.hardsigmoid,
    "Tanh": torch.tanh,
    "Softplus": F.softplus,
    "Elu": F.elu,
    "Swish": F.silu,
    "Gelu": F.gelu,
    "HardSwish": F.hardswish,
}
"""The operators themselves, with the attributes that PyTorch gives them unless asked otherwise."""


class Substituted(nn.Module):
    """An activation as a tool chain computes it. It adds nothing to a state dict.

    Args:
        operator: operator that is substituted; a key of :data:`SUBSTITUTIONS`.
        by: what is computed in its place.
        exact: the operator with the attributes that it has in the network.
        around: what the network computes around the operator: ``x * f(x)`` in a SiLU, where ``f`` is its sigmoid.
        site: name of its place in a network, unique there.
        activation: the activation that it stands for, where the placement of quantizers has rules for it.
        replaced: what :func:`~depth_distill.quantization.graph.substituted.restore` puts back.

    Attributes:
        enabled: if False, the activation itself is computed.

    Raises:
        ConfigError: there is no such operator or substitution.
    """

    def __init__(
        self,
        operator: str,
        by: str,
        exact: Function | None = None,
        around: Around | None = None,
        site: str = "",
        activation: ActivationName | None = None,
        replaced: Any = None,
    ) -> None:
        super().__init__()
        require_substitution(operator, by)
        self.operator, self.site, self.activation = operator, site, activation
        self.enabled = True
        # In a tuple, so that a module does not become a submodule.
        self._held = (exact or EXACT[operator], around, replaced)
        self.use(by)

    @property
    def replaced(self) -> Any:
        """What stood in its place."""
        return self._held[2]

    def use(self, by: str) -> None:
        """Compute something else in place of the same operator.

        Raises:
            ConfigError: there is no such substitution.
        """
        require_substitution(self.operator, by)
        bits = by.removeprefix("table_")
        self.by = by
        self._function = table(self._held[0], int(bits)) if bits != by else SUBSTITUTIONS[self.operator][by]

    def forward(self, x: Tensor) -> Tensor:
        """Values in the shape of ``x``, but where a gate halves it."""
        exact, around, _ = self._held
        function = self._function if self.enabled else exact
        return function(x) if around is None else around(x, function)

    def extra_repr(self) -> str:
        """Operator and substitution."""
        return f"{self.operator} by {self.by}" + ", off" * (not self.enabled)


def require_substitution(operator: str, by: str) -> None:
    """Refuse what is not known.

    Raises:
        ConfigError: there is no such operator or substitution; the message has the nearest name.
    """
    problem = problem_of(operator, by)
    if problem is None and by not in SUBSTITUTIONS[operator]:
        problem = f"received {by!r}, expected one of {', '.join(SUBSTITUTIONS[operator])}"
    if problem is not None:
        raise ConfigError(f"substitution of {operator}: {problem}")
