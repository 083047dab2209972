"""Names of what tool chains compute in place of a smooth activation, for profiles: this room itself computes nothing.

The functions are in :mod:`depth_distill.quantization.graph.substitutions`.
"""

from collections.abc import Mapping

from depth_distill.suggestions import did_you_mean

TABLE_BITS = (5, 6, 7, 8)
"""Bits of the index of a table in which a function is looked up."""
_TABLES = tuple(f"table_{bits}" for bits in TABLE_BITS)

ITSELF, UNCONFIRMED = "no", "unconfirmed"
"""Values of a profile: the tool chain was seen to compute the operator itself, or nobody has looked."""

SUBSTITUTION_NAMES: Mapping[str, tuple[str, ...]] = {
    "Sigmoid": ("hard_sigmoid", "relu6_sigmoid", "piecewise_sigmoid", *_TABLES),
    "HardSigmoid": ("default_attributes",),
    "Tanh": ("hard_tanh", "hard_sigmoid", *_TABLES),
    "Softplus": ("relu", *_TABLES),
    "Elu": ("relu", *_TABLES),
    "Swish": ("hard_swish", "relu"),
    "Gelu": ("tanh", "sigmoid", "relu"),
    "HardSwish": ("swish", "relu"),
}
"""By operator, what is known to be computed in its place.

Operators are ONNX's, but ``Swish``, ``HardSwish`` and ``Gelu`` are also those that a tool chain recognizes in a file of
an older opset, where they are ``x * Sigmoid(x)``, ``x * HardSigmoid(x)`` and a formula with ``Erf``.
"""


def problem_of(operator: str, by: object) -> str | None:
    """Why a profile cannot have this substitution of an operator; None if it can."""
    if operator not in SUBSTITUTION_NAMES:
        return f"no substitution of {operator!r} is known; {did_you_mean(operator, SUBSTITUTION_NAMES)}"
    values = (*SUBSTITUTION_NAMES[operator], ITSELF, UNCONFIRMED)
    if by in values:
        return None
    what = "which does not say what is computed" if by == "yes" else f"expected what is computed in place of {operator}"
    return f"received {by!r}, {what}; {did_you_mean(str(by), values)}"
