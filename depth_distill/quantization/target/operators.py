"""Which ONNX operators a tool chain takes, and up to which limits, as self-validating data."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from depth_distill.quantization.target.onnx_operators import ONNX_OPERATORS
from depth_distill.quantization.target.validated import FieldError, ValidatedDataclass
from depth_distill.suggestions import did_you_mean

Factors = Literal["any", "powers_of_two"]

_REDUCTIONS = tuple(sorted(each for each in ONNX_OPERATORS if each.startswith("Reduce")))
_WINDOWS = ("Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool")
LIMITED: Mapping[str, tuple[str, ...]] = {
    "max_window": _WINDOWS,
    "max_dilation": _WINDOWS,
    "strides": _WINDOWS,
    "p": ("LpPool",),
    "operands": ("Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Mean", "Pow"),
    "exponent": ("Pow",),
    "axes": ("ArgMax", "ArgMin", *_REDUCTIONS, "Concat", "Split", "Slice", "Softmax", "LogSoftmax"),
    "exact_axes": ("Squeeze", "Unsqueeze"),
    "max_axes": ("Slice", *_REDUCTIONS),
    "max_channels": ("ArgMax", "ArgMin"),
    "multiple": ("Slice", "Split"),
    "steps": ("Slice",),
    "modes": ("Pad", "Resize", "Upsample"),
    "pads": ("Pad",),
    "factors": ("Resize", "Upsample"),
    "to": ("Cast",),
}
"""The operators that each field of :class:`OperatorLimits` is about."""
_MOVED = {
    "conv": "limits: {Conv: {max_window: 17}}",
    "transposed_conv": "limits: {ConvTranspose: {max_window: 5}}",
    "upsample": 'limits: {"Resize, Upsample": {factors: powers_of_two}}',
    "slice_multiple": 'limits: {"Slice, Split": {multiple: 8}}',
    "concat_axes": "limits: {Concat: {axes: [1, 2, 3]}}",
    "argmax": 'limits: {"ArgMax, ArgMin": {axes: [1], max_channels: 256}}',
    "cast_to": "limits: {Cast: {to: [float32]}}",
    "elementwise_constant": 'limits: {"Add, Sub, Mul, Div": {operands: channel_constant}}',
}


@dataclass(frozen=True)
class OperatorLimits(ValidatedDataclass):
    """Limits of one operator; None and ``any`` mean no limit. :data:`LIMITED` says which operators have which."""

    max_window: int | None = None
    """Longest side of the window of a convolution or pooling."""
    max_dilation: int | None = None
    strides: Factors = "any"
    p: tuple[int, ...] | None = None
    """Norms of LpPool."""
    operands: Literal["any", "channel_constant"] = "any"
    """``channel_constant``: two inputs, of which one may be a constant ``(1, C)`` or ``(1, C, 1, 1)``, with one value
    per channel of the other, or one for all."""
    exponent: Literal["any", "constant"] = "any"
    axes: tuple[int, ...] | None = None
    """Axes that the operator may run along, counted from the front."""
    exact_axes: tuple[int, ...] | None = None
    """The axes that the operator must have, all together."""
    max_axes: int | None = None
    """Most axes at once."""
    max_channels: int | None = None
    """Longest axis that the operator runs along."""
    multiple: int | None = None
    """Bounds of Slice and cuts of Split must be multiples of this."""
    steps: Literal["any", "positive"] = "any"
    modes: tuple[str, ...] | None = None
    """Values of the attribute ``mode``."""
    pads: Literal["any", "channels_or_windows"] = "any"
    """``channels_or_windows``: it pads channels only, or every reader is a window without padding of its own."""
    factors: Factors = "any"
    to: tuple[str, ...] | None = None
    """NumPy names of the types that Cast may cast to."""

    def given(self) -> dict[str, Any]:
        """The limits that there are, by field."""
        fields = dataclasses.fields(self)
        return {each.name: getattr(self, each.name) for each in fields if getattr(self, each.name) != each.default}


@dataclass(frozen=True)
class OperatorRules(ValidatedDataclass):
    """ONNX operators and attributes that the tool chain accepts; None means no limit.

    In YAML, operators with the same limits share a key: ``AveragePool, MaxPool: {max_window: 17}``.

    Raises:
        FieldError: an operator does not exist, stands there twice, or does not have a limit that is given.
    """

    supported: Mapping[str, OperatorLimits] | None = field(default=None, hash=False)
    """The operators that the tool chain takes, with their limits; every other is refused. None: all are taken."""
    limits: Mapping[str, OperatorLimits] = field(default_factory=dict, hash=False)
    """Limits of single operators of a tool chain that takes the others as they are."""
    forbidden: tuple[str, ...] = ()
    """ONNX operator types that the tool chain rejects, even where they are in ``supported``."""
    max_opset: int | None = None
    """Newest version of ONNX's operator set that the tool chain reads."""
    domains: tuple[str, ...] = ()
    """Domains other than ONNX's own whose operators the tool chain reads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_operators(self.forbidden, "forbidden")
        for key, named in (("supported", self.supported or {}), ("limits", self.limits)):
            _require_operators(named, key)
            for operator, limits in named.items():
                for name in limits.given():
                    if operator not in LIMITED[name]:
                        several = ", ".join(LIMITED[name])
                        raise FieldError(
                            f"{operator} has no such limit; it is one of {several}", f"{key}.{operator}.{name}"
                        )
        both = sorted(set(self.supported or {}) & set(self.limits))
        if both:
            raise FieldError(f"{both[0]} is in supported as well: write its limits there", f"limits.{both[0]}")

    @classmethod
    def moved(cls, name: str) -> str | None:
        """What to write instead of a key of an older profile; None if it was never one."""
        return f"is now a limit of an operator: {_MOVED[name]}" if name in _MOVED else None

    def takes(self, operator: str) -> bool:
        """Whether the tool chain takes an operator of ONNX within its limits."""
        return operator not in self.forbidden and (self.supported is None or operator in self.supported)

    def limits_of(self, operator: str) -> tuple[str, OperatorLimits]:
        """Limits of an operator, and the key where they stand."""
        if self.supported is not None and operator in self.supported:
            return f"operators.supported.{operator}", self.supported[operator]
        return f"operators.limits.{operator}", self.limits.get(operator, OperatorLimits())


def _require_operators(names: Iterable[str], key: str) -> None:
    for name in names:
        if name not in ONNX_OPERATORS:
            raise FieldError(f"ONNX has no operator {name!r}; {did_you_mean(name, sorted(ONNX_OPERATORS))}", key)
