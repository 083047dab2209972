"""What a tool chain computes in place of smooth activations: each one alone, over [-8, 8], beside everything known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from depth_distill.export.onnx_io.file_spec import OPSET
from depth_distill.export.probe.graphs import IMAGE, GraphBuilder
from depth_distill.loading.onnx_importer.files import opset_of
from depth_distill.quantization.graph.substitutions import EXACT, SUBSTITUTIONS
from depth_distill.quantization.target.substitutions import ITSELF, UNCONFIRMED
from depth_distill.quantization.target.target import NpuTarget

_END, _CHANNELS, _SIDE = 8.0, 16, 16  # 4096 values from -8 to 8
_LEVELS = 255  # of 8 bits
_NOISE = 2.0  # times the RMS error of rounding input and output once
_FLOAT_SHARE = 0.0007  # of the largest value: FP16 has 11 bits, half a step of which is 0.0005
_CLEARLY = 2.0  # times nearer than the operator itself: a tool chain's approximation may differ in details
_HARD_SWISH_SINCE = 14  # opset

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SubstitutionProbe:
    """A file with one activation behind a convolution that changes nothing.

    Attributes:
        operator: operator, as profiles name it.
        model: float file with an output of the operator's name.
        inputs: ``(1, 16, 16, 16)`` float32.
    """

    operator: str
    model: onnx.ModelProto
    inputs: NDArray[np.float32]


def substitution_probes(target: NpuTarget) -> list[SubstitutionProbe]:
    """One probe per activation that files for the target can have and the target's profile does not forbid."""
    opset = min(OPSET, target.operators.max_opset or OPSET)
    grid = np.linspace(-_END, _END, _CHANNELS * _SIDE**2, dtype=np.float32)
    # Mixed, so that channels and tiles do not have ranges of their own.
    inputs = np.random.default_rng(0).permutation(grid).reshape(1, _CHANNELS, _SIDE, _SIDE)
    return [
        SubstitutionProbe(operator, _model([operator], opset), inputs)
        for operator in _WRITERS
        if not (operator == "HardSwish" and opset < _HARD_SWISH_SINCE) and operator not in target.operators.forbidden
    ]


def together(probes: Sequence[SubstitutionProbe]) -> onnx.ModelProto:
    """The files of some probes as one, which takes one run of a tool chain; with an output of each operator's name."""
    return _model([each.operator for each in probes], opset_of(probes[0].model))


def judge_substitution(probe: SubstitutionProbe, found: np.ndarray, integers: bool) -> tuple[str, str]:
    """What a tool chain computed: ``no`` for the operator itself, a substitution by name, or ``unconfirmed``.

    Args:
        probe: what was run.
        found: output of the tool chain.
        integers: whether it computed in 8 bits, with the error of rounding input and output.

    Returns:
        That, and the reason with RMS distances.
    """
    x = probe.inputs.astype(np.float64)
    if found.size != x.size:
        return UNCONFIRMED, f"returns the shape {found.shape}, expected {x.shape}"
    values = found.astype(np.float64).reshape(x.shape)
    if not np.isfinite(values).all():
        return UNCONFIRMED, "returns NaN or infinity"
    exact = _computed(EXACT[probe.operator], x)
    known = {by: _computed(function, x) for by, function in SUBSTITUTIONS[probe.operator].items()}
    off = {by: _rms(values - each) for by, each in {ITSELF: exact, **known}.items()}
    rounding = _rms(_rounded(_computed(EXACT[probe.operator], _rounded(x))) - exact) if integers else 0.0
    limit = _NOISE * rounding + _FLOAT_SHARE * float(np.abs(exact).max())
    nearest = min(off, key=lambda by: off[by])
    numbers = f"RMS {off[ITSELF]:.2g} from {probe.operator}"
    if off[ITSELF] <= limit:
        hidden = [by for by, each in known.items() if _rms(each - exact) <= limit]
        unseen = f"; {', '.join(hidden)} could not be told apart" if hidden else ""
        return ITSELF, f"{numbers}, at most {limit:.2g}{unseen}"
    if off[nearest] <= limit and _CLEARLY * off[nearest] < off[ITSELF]:
        return nearest, f"{numbers}, {off[nearest]:.2g} from {nearest}"
    return UNCONFIRMED, f"{numbers}, at most {limit:.2g}; nearest is {nearest}, {off[nearest]:.2g} away"


def _computed(function: Callable[[torch.Tensor], torch.Tensor], x: Values) -> Values:
    values: Values = function(torch.from_numpy(x)).numpy()
    return values


def _rounded(values: Values) -> Values:
    """To 8 bits between minimum and maximum."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = (high - low) / _LEVELS
    return np.round(values / step) * step


def _rms(values: Values) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _model(operators: Sequence[str], opset: int) -> onnx.ModelProto:
    graph = GraphBuilder()
    x = graph.conv(IMAGE, graph.constant(np.eye(_CHANNELS, dtype=np.float32)[..., None, None]))
    outputs = {operator: _WRITERS[operator](graph, x) for operator in operators}
    return graph.model((1, _CHANNELS, _SIDE, _SIDE), outputs, opset)


def _swish(graph: GraphBuilder, x: str) -> str:
    return graph.node("Mul", [x, graph.node("Sigmoid", [x])])


def _gelu(graph: GraphBuilder, x: str) -> str:
    """As exporters write it before opset 20."""
    scaled = graph.node("Div", [x, graph.constant(np.float32(2**0.5))])
    shifted = graph.node("Add", [graph.node("Erf", [scaled]), graph.constant(np.float32(1))])
    return graph.node("Mul", [graph.node("Mul", [x, shifted]), graph.constant(np.float32(0.5))])


_WRITERS: Mapping[str, Callable[[GraphBuilder, str], str]] = {
    "Sigmoid": lambda graph, x: graph.node("Sigmoid", [x]),
    "HardSigmoid": lambda graph, x: graph.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5),
    "Tanh": lambda graph, x: graph.node("Tanh", [x]),
    "Softplus": lambda graph, x: graph.node("Softplus", [x]),
    "Elu": lambda graph, x: graph.node("Elu", [x]),
    "Swish": _swish,
    "Gelu": _gelu,
    "HardSwish": lambda graph, x: graph.node("HardSwish", [x]),
}
