"""Choose layers to leave in FP16 or INT16 while the rest is INT8: by a threshold, or for a target accuracy."""

import copy
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from torch import Tensor, fx

from depth_distill.errors import ConfigError
from depth_distill.quantization.analysis.sensitivity import Sensitivity
from depth_distill.quantization.simulate.calibrate import apply_calibration, calibrate
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.npu_operators import NpuOperator, enabled_sites_for, npu_operators
from depth_distill.quantization.target.target import CalibratorName, NpuTarget

HighPrecisionFormat = Literal["fp16", "int16"]
"""Format of the layers for which INT8 is too coarse."""

Evaluate = Callable[[fx.GraphModule], dict[str, float]]
"""Computes the metrics of a network, including ``abs_rel``."""

RELATIVE_TARGET = 1.02
"""abs_rel over that of FP32 which is searched for unless another target is given."""

_INTEGER_BIAS_BYTES = 4
_BYTES = {"fp16": (2, 2), "int16": (2, _INTEGER_BIAS_BYTES)}  # per weight and per bias
_MEGABYTE = 1e6


@dataclass(frozen=True)
class MixedNetwork:
    """One assignment of formats: the layers that are not INT8, and the accuracy and size of the resulting network.

    Attributes:
        layers: layers in the high-precision format, in the order in which they were chosen.
        abs_rel: abs_rel of the network.
        megabytes: size of weights and biases, 1 MB = 1e6 bytes.
    """

    layers: tuple[str, ...]
    abs_rel: float
    megabytes: float


@dataclass(frozen=True)
class MixedPrecision:
    """The result of a search.

    Attributes:
        high_precision: format of the chosen layers.
        target_abs_rel: requested abs_rel.
        chosen: smallest assignment found that reaches the target; the most accurate one if none does.
        reached: whether the chosen assignment reaches the target.
        curve: evaluated assignments that none of the same size or smaller beats, by size, pure INT8 first.
        float_abs_rel: abs_rel of the float network.
        int8_mb: size with all layers in INT8.
        high_precision_mb: size with all layers in the high-precision format.
    """

    high_precision: HighPrecisionFormat
    target_abs_rel: float
    chosen: MixedNetwork
    reached: bool
    curve: tuple[MixedNetwork, ...]
    float_abs_rel: float
    int8_mb: float
    high_precision_mb: float

    @property
    def statement(self) -> str:
        """The outcome in a sentence."""
        target = f"abs_rel {self.target_abs_rel:g}"
        high_precision, found = self.high_precision.upper(), f"abs_rel {self.chosen.abs_rel:.4f}"
        if not self.reached:
            return (
                f"{target} cannot be reached: not with all layers in {high_precision}, and the best found is {found}; "
                f"FP32 has {self.float_abs_rel:.4f}"
            )
        if not self.chosen.layers:
            return f"pure INT8 already suffices for {target}: {found}"
        count = len(self.chosen.layers)
        reach = "1 layer in {} reaches" if count == 1 else f"{count} layers in {{}} reach"
        return f"{reach.format(high_precision)} {target}: {found}, {self.chosen.megabytes:.2f} MB"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"statement": self.statement}

    def table(self, title: str) -> Table:
        """The curve of size against abs_rel."""
        table = Table(title=title, caption=self.statement)
        for heading in (f"layers in {self.high_precision.upper()}", "MB", "abs_rel", "times FP32"):
            table.add_column(heading, justify="right")
        table.add_column("added last")
        for each in self.curve:
            mark = " *" if each == self.chosen else ""
            ratio = f"{each.abs_rel / self.float_abs_rel:.3f}"
            last = each.layers[-1] if each.layers else ""
            table.add_row(f"{len(each.layers)}{mark}", f"{each.megabytes:.2f}", f"{each.abs_rel:.4f}", ratio, last)
        return table


def chosen_layers(file: Path) -> tuple[str, ...]:
    """The layers that ``depth-distill mixed-precision`` chose for the high-precision format, from its JSON file.

    Raises:
        ConfigError: the file does not exist, or is of another kind.
    """
    try:
        layers = json.loads(file.read_text(encoding="utf-8"))["chosen"]["layers"]
        if not isinstance(layers, list) or not all(isinstance(each, str) for each in layers):
            raise TypeError("its layers are no list of names")
        return tuple(layers)
    except FileNotFoundError as error:
        raise ConfigError(
            f"high_precision_layers: {file} does not exist: expected a result of depth-distill mixed-precision"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"high_precision_layers: {file} is not a result of depth-distill mixed-precision: {error!r}"
        ) from error


def check_high_precision_format(target: NpuTarget, high_precision: HighPrecisionFormat) -> None:
    """Refuse a format that the target cannot run beside INT8.

    Raises:
        ConfigError: the target does not support ``high_precision``, or has one precision for all layers; the message
            quotes the line of its profile.
    """
    for capability in (high_precision, "per_layer_precision"):
        if getattr(target.capabilities, capability) == "no":
            key = f"capabilities.{capability}"
            line = target.line_of(key) if target.source is not None else f"{target.name}: {key}: no"
            raise ConfigError(f"the target does not support mixed precision with {high_precision.upper()}: {line}")


def set_precision(
    quantized: fx.GraphModule, layers: Collection[str], high_precision: HighPrecisionFormat = "fp16"
) -> fx.GraphModule:
    """A copy of the network with some layers in the high-precision format.

    A tensor is rounded to that format if its producer and all its consumers use it, otherwise to the target's, see
    :func:`~depth_distill.quantization.simulate.npu_operators.enabled_sites_for`.

    Raises:
        ConfigError: a name is no layer.
    """
    mixed = copy.deepcopy(quantized)
    narrow = enabled_sites_for(npu_operators(mixed), layers)
    for site, quantizer in quantizers(mixed).items():
        if site in narrow:
            continue
        if high_precision == "fp16":
            quantizer.in_half = True
        else:
            dtype: Literal["uint16", "int16"] = "uint16" if quantizer.tensor_format.dtype.startswith("u") else "int16"
            quantizer.use_format(replace(quantizer.tensor_format, dtype=dtype))
    return mixed


def mixed_network(
    quantized: fx.GraphModule,
    layers: Collection[str],
    calibration: Sequence[Tensor],
    high_precision: HighPrecisionFormat = "fp16",
    calibrator: CalibratorName = "minmax",
) -> fx.GraphModule:
    """Run :func:`set_precision` and calibrate again, because the format of earlier layers affects later ranges.

    Raises:
        ConfigError: see :func:`set_precision`.
        DataError: see ``calibrate``.
    """
    mixed = set_precision(quantized, layers, high_precision)
    apply_calibration(calibrate(mixed, calibration, calibrator, progress=False), mixed)
    return mixed


def megabytes(
    operators: Iterable[NpuOperator], layers: Collection[str], high_precision: HighPrecisionFormat = "fp16"
) -> float:
    """Size of all weights and biases in MB of 1e6 bytes.

    A weight takes what its integers have in bits (1 byte in INT8), and 2 bytes in FP16 and INT16; a bias takes 4 bytes
    in integers and 2 in FP16.
    """
    total = 0.0
    for each in operators:
        in_integers = (each.weight_bits / 8, _INTEGER_BIAS_BYTES)
        weight_bytes, bias_bytes = _BYTES[high_precision] if each.name in layers else in_integers
        total += each.parameters[0] * weight_bytes + each.parameters[1] * bias_bytes
    return total / _MEGABYTE


def layers_above(sensitivity: Sensitivity, threshold: float = 0.02) -> tuple[str, ...]:
    """Layers that alone cost more than ``threshold`` in abs_rel in integers, the most sensitive first."""
    exact = sensitivity.baseline["abs_rel"]
    return tuple(each.name for each in sensitivity.layers if each.alone["abs_rel"] - exact > threshold)


def search_mixed_precision(
    quantized: fx.GraphModule,
    evaluate: Evaluate,
    sensitivity: Sensitivity,
    calibration: Sequence[Tensor],
    target_abs_rel: float,
    high_precision: HighPrecisionFormat = "fp16",
    on_step: Callable[[MixedNetwork], object] = lambda step: None,
    calibrator: CalibratorName = "minmax",
) -> MixedPrecision:
    """Search for the smallest set of high-precision layers with which abs_rel is at most the target.

    If all layers together do not reach it, nothing is searched. Otherwise layers are added in order of their
    ``recovery``, then of their ``degradation``, until the target is reached. Then each added layer, starting with the
    last, is set back to INT8 if the target is still reached. The network is calibrated and evaluated again after every
    change. The search is greedy, so a smaller set may exist.

    The curve also has the first 1, 2, 4, 8, ... and all layers in that order.

    Args:
        quantized: network from ``fake_quantize`` for the target; it is not changed.
        evaluate: computes the metrics of a network.
        sensitivity: sensitivity of the layers of ``quantized``.
        calibration: batches of calibration images.
        target_abs_rel: abs_rel to reach.
        high_precision: format of the layers that are not INT8.
        on_step: called with every assignment that was evaluated.
        calibrator: the target's calibrator, which measures activation ranges.

    Raises:
        ConfigError: the target is not positive.
    """
    if not target_abs_rel > 0:
        raise ConfigError(f"target_abs_rel must be positive, received {target_abs_rel}")
    operators = npu_operators(quantized)
    seen: dict[frozenset[str], MixedNetwork] = {}

    def assess(layers: Sequence[str]) -> MixedNetwork:
        key = frozenset(layers)
        if key not in seen:
            abs_rel = evaluate(mixed_network(quantized, layers, calibration, high_precision, calibrator))["abs_rel"]
            seen[key] = MixedNetwork(tuple(layers), abs_rel, megabytes(operators, layers, high_precision))
            on_step(seen[key])
        return seen[key]

    ranked = [each.name for each in sorted(sensitivity.layers, key=lambda each: (-each.recovery, -each.degradation))]
    found = assess([])
    reached = found.abs_rel <= target_abs_rel or assess(ranked).abs_rel <= target_abs_rel
    for count in range(1, len(ranked) + 1):
        if not reached or found.abs_rel <= target_abs_rel:
            break
        found = assess(ranked[:count])
    if reached:
        for name in reversed(found.layers):
            fewer = assess([other for other in found.layers if other != name])
            if fewer.abs_rel <= target_abs_rel:
                found = fewer
    every = [each.name for each in operators if each.is_layer]
    for count in [2**power for power in range(len(every).bit_length())] + [len(every)]:
        assess(ranked[:count])  # more points for the curve
    if not reached:
        found = min(seen.values(), key=lambda each: each.abs_rel)
        reached = found.abs_rel <= target_abs_rel
    return MixedPrecision(
        high_precision,
        target_abs_rel,
        found,
        reached,
        _front(seen.values()),
        sensitivity.float_metrics["abs_rel"],
        megabytes(operators, [], high_precision),
        megabytes(operators, every, high_precision),
    )


def _front(seen: Iterable[MixedNetwork]) -> tuple[MixedNetwork, ...]:
    """The assignments that none of the same size or smaller beats (the Pareto front)."""
    front: list[MixedNetwork] = []
    for each in sorted(seen, key=lambda each: (each.megabytes, each.abs_rel)):
        if not front or each.abs_rel < front[-1].abs_rel:
            front.append(each)
    return tuple(front)
