"""Faults that are a curve from the float network's codes to the device's: of its last operator, or of reading."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import fx

from depth_distill.export.device.case import Codes
from depth_distill.export.device.evidence import Evidence
from depth_distill.export.device.suspects.base import Kind, Suspect, Trial
from depth_distill.loading.meaning import Affine
from depth_distill.loading.output_tail import step_back
from depth_distill.quantization.graph.substituted import operator_of
from depth_distill.quantization.graph.substitutions import SUBSTITUTIONS

SIGMOID = "Sigmoid"
_NEVER_0, _NEVER_1 = 1e-7, 1 - 6e-8  # float32 codes that a sigmoid rounds to 0 and 1 have no finite pre-activation
_LEVELS = 255

_IN_WORDS = {
    "hard_sigmoid": "HardSigmoid, clip(x / 5 + 1/2)",
    "relu6_sigmoid": "ReLU6(x + 3) / 6",
    "piecewise_sigmoid": "straight lines (PLAN)",
}


@dataclass(frozen=True)
class SigmoidBy(Suspect):
    """The last sigmoid is computed as something else.

    Attributes:
        by: what, a name of ``SUBSTITUTIONS["Sigmoid"]``.
    """

    by: str = "hard_sigmoid"
    name: ClassVar[str] = "sigmoid"
    kind: ClassVar[Kind] = "curve"
    title: ClassVar[str] = "the last Sigmoid is computed as"
    cure: ClassVar[str] = "or export with --logits, or with the pass thermometer, so that it is not in the file"

    @property
    def key(self) -> str:
        """With what computes it."""
        return f"sigmoid_by_{self.by}"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Its curve, where the network ends in a sigmoid."""
        if ends_in_sigmoid(evidence):
            entries = self.by.removeprefix("table_")
            words = f"a table of {2 ** int(entries)} entries" if entries.isdigit() else _IN_WORDS.get(self.by, self.by)
            yield Trial(words, partial(_bent, evidence, _of_pre_activation(SUBSTITUTIONS[SIGMOID][self.by])))


@dataclass(frozen=True)
class SigmoidTwice(Suspect):
    """A sigmoid of the sigmoid: one in the file, and one on the host."""

    name: ClassVar[str] = "sigmoid_twice"
    kind: ClassVar[Kind] = "codes"
    title: ClassVar[str] = "a sigmoid is computed twice:"
    cure: ClassVar[str] = "leave out the one on the host: the file ends in one"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Undone by a logit."""
        if ends_in_sigmoid(evidence):
            yield Trial("in the file and on the host", partial(_undone, evidence, _logit))


@dataclass(frozen=True)
class SigmoidLeftOut(Suspect):
    """The device returns what goes into the last sigmoid."""

    name: ClassVar[str] = "sigmoid_left_out"
    kind: ClassVar[Kind] = "codes"
    title: ClassVar[str] = "the last Sigmoid is left out:"
    cure: ClassVar[str] = "compute it on the host, or export with --logits, whose decoders do"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Undone by a sigmoid."""
        if ends_in_sigmoid(evidence):
            yield Trial("the outputs are what goes into it", partial(_undone, evidence, _sigmoid))


@dataclass(frozen=True)
class PowerOfTwoScale(Suspect):
    """The output is rounded to 7 bits: int8 without negative codes, in steps of 1/128."""

    name: ClassVar[str] = "power_of_two_scale"
    kind: ClassVar[Kind] = "curve"
    title: ClassVar[str] = "the output's scale is a power of two:"
    cure: ClassVar[str] = (
        "give the output of the network a scale of 1/255 and a zero point, or 16 bits, in the tool chain: no table "
        "brings back the steps"
    )

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Steps of 1/128, of which the last is missing, or of 1/64."""
        for steps in (128, 64):
            yield Trial(f"steps of 1/{steps}", partial(_bent, evidence, partial(_rounded, steps)))


@dataclass(frozen=True)
class PowerOfTwoRead(Suspect):
    """Integers with a scale of 1/256 or 1/128 are read as if it was 1/255."""

    name: ClassVar[str] = "power_of_two_read"
    kind: ClassVar[Kind] = "codes"
    title: ClassVar[str] = "the output's scale is a power of two, and its integers are read with another:"
    cure: ClassVar[str] = "read them with the scale of the device: --scale"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Undone by a factor."""
        for steps in (256, 128, 64):
            detail = f"1/{_LEVELS} in place of 1/{steps}"
            yield Trial(detail, partial(_undone, evidence, partial(_times, _LEVELS / steps)))


@dataclass(frozen=True)
class SignedRead(Suspect):
    """Bytes of int8 are read as uint8, or the other way: codes are shifted by 128 of 256."""

    name: ClassVar[str] = "int8_read_as_uint8"
    kind: ClassVar[Kind] = "codes"
    title: ClassVar[str] = "int8 is read as uint8, or uint8 as int8:"
    cure: ClassVar[str] = "read the bytes as the other type (--dump-dtype, or a new .npy), which shifts codes by 128"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Undone by the highest bit."""
        yield Trial("codes are shifted by 128", partial(_undone, evidence, _shifted))


def ends_in_sigmoid(evidence: Evidence) -> bool:
    """Whether the output that means depth is a sigmoid, with nothing but moves of pixels behind it."""
    graph = evidence.graph
    if graph is None or evidence.case.layout.logits:
        return False
    (returned,) = next(node for node in graph.graph.nodes if node.op == "output").args
    if isinstance(returned, dict):
        returned = list(returned.values())
    if isinstance(returned, tuple | list):
        names = evidence.case.source.interface.outputs.names
        returned = returned[names.index(evidence.case.layout.names[0])]
    return isinstance(returned, fx.Node) and _is_sigmoid(graph, returned)


def _is_sigmoid(graph: fx.GraphModule, node: fx.Node) -> bool:
    while True:
        if operator_of(graph, node) == SIGMOID:
            return True
        if node.target is torch.cat:
            return all(_is_sigmoid(graph, each) for each in node.all_input_nodes)
        before = step_back(node, Affine(1.0, 0.0, False), False, graph)
        if before is None:
            return False
        node = before[0]


def _bent(evidence: Evidence, curve: Callable[[Codes], Codes], place: int) -> tuple[Codes, Codes]:
    return evidence.device[place], curve(evidence.expected[place])


def _undone(evidence: Evidence, curve: Callable[[Codes], Codes], place: int) -> tuple[Codes, Codes]:
    return curve(evidence.device[place]), evidence.expected[place]


def _of_pre_activation(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Codes], Codes]:
    def curve(codes: Codes) -> Codes:
        inner = torch.logit(torch.from_numpy(codes).double().clamp(_NEVER_0, _NEVER_1))
        return np.asarray(function(inner).numpy(), np.float32)

    return curve


def _logit(codes: Codes) -> Codes:
    return np.asarray(torch.logit(torch.from_numpy(codes).double(), eps=_NEVER_0).numpy(), np.float32)


def _sigmoid(codes: Codes) -> Codes:
    return np.asarray(torch.sigmoid(torch.from_numpy(codes)).numpy(), np.float32)


def _rounded(steps: int, codes: Codes) -> Codes:
    return np.asarray(np.clip(np.rint(codes * steps), 0, steps - 1) / steps, np.float32)


def _times(factor: float, codes: Codes) -> Codes:
    return np.asarray(codes * factor, np.float32)


def _shifted(codes: Codes) -> Codes:
    return np.asarray((np.rint(codes * _LEVELS).astype(np.int64) ^ 128) / _LEVELS, np.float32)
