"""What tool chains compute in place of a smooth activation, and a network in which that is done."""

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import operation_name, scoped_name
from depth_distill.suggestions import did_you_mean

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


def table(function: Callable[[Tensor], Tensor], bits: int) -> Callable[[Tensor], Tensor]:
    """A function from a table of ``2^bits`` values at evenly spaced inputs in [-8, 8]; the nearest one is taken."""
    step = 2 * _TABLE_END / (2**bits - 1)

    def looked_up(x: Tensor) -> Tensor:
        return function(((x.clamp(-_TABLE_END, _TABLE_END) + _TABLE_END) / step).round() * step - _TABLE_END)

    return looked_up


_SIGMOIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_sigmoid": hard_sigmoid,
    "relu6_sigmoid": relu6_sigmoid,
    "piecewise_sigmoid": piecewise_sigmoid,
    **{f"table_{bits}": table(torch.sigmoid, bits) for bits in (5, 6, 7, 8)},
}

SUBSTITUTIONS: Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]] = {
    "Sigmoid": _SIGMOIDS,
    "Tanh": {
        "hard_tanh": F.hardtanh,
        "hard_sigmoid": lambda x: 2 * hard_sigmoid(2 * x) - 1,
        **{f"table_{bits}": table(torch.tanh, bits) for bits in (5, 6, 7, 8)},
    },
    "Softplus": {"relu": F.relu, **{f"table_{bits}": table(F.softplus, bits) for bits in (5, 6, 7, 8)}},
    "Elu": {"relu": F.relu, **{f"table_{bits}": table(F.elu, bits) for bits in (5, 6, 7, 8)}},
    "Swish": {"hard_swish": F.hardswish, "relu": F.relu},
    "Gelu": {
        "tanh": lambda x: F.gelu(x, approximate="tanh"),
        "sigmoid": lambda x: x * torch.sigmoid(1.702 * x),  # Hendrycks and Gimpel 2016, section 2
        "relu": F.relu,
    },
    "HardSwish": {"swish": F.silu, "relu": F.relu},
}
"""By ONNX operator, what is known to be computed in its place, by name."""

_OPERATORS = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "elu": "Elu",
    "silu": "Swish",
    "gelu": "Gelu",
    "hardswish": "HardSwish",
}


class Substituted(nn.Module):
    """An activation as a tool chain computes it.

    Args:
        operator: ONNX operator of the activation.
        by: what is computed in its place, a name in :data:`SUBSTITUTIONS`.

    Raises:
        ConfigError: there is no such operator or substitution.
    """

    def __init__(self, operator: str, by: str) -> None:
        super().__init__()
        require_substitution(operator, by)
        self.operator, self.by = operator, by

    def forward(self, x: Tensor) -> Tensor:
        """Values in the shape of ``x``."""
        return SUBSTITUTIONS[self.operator][self.by](x)

    def extra_repr(self) -> str:
        """Operator and substitution."""
        return f"{self.operator} by {self.by}"


def require_substitution(operator: str, by: str) -> None:
    """Refuse what is not known.

    Raises:
        ConfigError: there is no such operator or substitution; the message has the nearest name.
    """
    if operator not in SUBSTITUTIONS:
        raise ConfigError(f"no substitution of {operator!r} is known; {did_you_mean(operator, SUBSTITUTIONS)}")
    if by not in SUBSTITUTIONS[operator]:
        raise ConfigError(f"{operator} by {by!r} is not known; {did_you_mean(by, SUBSTITUTIONS[operator])}")


def substitute(graph_module: fx.GraphModule, substitutions: Mapping[str, str]) -> tuple[fx.GraphModule, list[str]]:
    """A copy in which activations are computed as a tool chain does, and the names of those.

    Args:
        graph_module: a traced network; it is not changed.
        substitutions: what is computed in place of which ONNX operator, see :data:`SUBSTITUTIONS`.

    Raises:
        ConfigError: an operator or substitution is not known.
    """
    for operator, by in substitutions.items():
        require_substitution(operator, by)
    changed = copy.deepcopy(graph_module)
    places = []
    for node in list(changed.graph.nodes):
        operator = operator_of(changed, node)
        if operator is None or operator not in substitutions:
            continue
        places.append(scoped_name(node))
        path = f"substituted_{node.name}"
        changed.add_submodule(path, Substituted(operator, substitutions[operator]))
        source = node.all_input_nodes[0]
        node.op, node.target, node.args, node.kwargs = "call_module", path, (source,), {}
    changed.delete_all_unused_submodules()
    changed.graph.lint()
    changed.recompile()
    return changed, places


def operator_of(graph_module: fx.GraphModule, node: fx.Node) -> str | None:
    """The ONNX operator of an activation that tool chains may substitute; None of any other node."""
    if not node.op.startswith("call"):
        return None
    return _OPERATORS.get(operation_name(graph_module, node))
