"""Faults within the network: what a tool chain computes in place of a layer, run in the float network."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import fx, nn

from depth_distill.export.device.case import Codes
from depth_distill.export.device.evidence import Evidence
from depth_distill.export.device.suspects.base import Kind, Suspect, Trial
from depth_distill.export.device.suspects.curves import SIGMOID, ends_in_sigmoid
from depth_distill.quantization.graph.substituted import substitute
from depth_distill.quantization.graph.substitutions import SUBSTITUTIONS

_PADDINGS = (nn.ReflectionPad2d, nn.ReplicationPad2d)


@dataclass(frozen=True)
class ActivationBy(Suspect):
    """The activations of an operator are computed as something else.

    Attributes:
        operator: an ONNX operator of ``SUBSTITUTIONS``.
    """

    operator: str = "Elu"
    name: ClassVar[str] = "activation"
    kind: ClassVar[Kind] = "inside"
    title: ClassVar[str] = "activations within the network are computed otherwise:"
    cure: ClassVar[str] = (
        "say so in the target profile, so that fake quantization trains with it, or exchange the activation for one "
        "that the chain computes as it is (the pass replace_activations)"
    )

    @property
    def key(self) -> str:
        """With the operator."""
        return f"activation_{self.operator.lower()}"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Each substitution that is known, in all of its places."""
        graph = evidence.graph
        if graph is None:
            return
        for by in SUBSTITUTIONS[self.operator]:
            changed, places = substitute(graph, {self.operator: by})
            if len(places) <= (self.operator == SIGMOID and ends_in_sigmoid(evidence)):
                return  # none, or the last one alone, which is a curve
            yield _of_graph(f"{self.operator} as {by.replace('_', ' ')}", evidence, changed)


@dataclass(frozen=True)
class ZeroPadding(Suspect):
    """Borders are padded with zeros in place of what lies beside them."""

    name: ClassVar[str] = "zero_padding"
    kind: ClassVar[Kind] = "inside"
    title: ClassVar[str] = "borders are padded otherwise:"
    cure: ClassVar[str] = "train with padding: zeros, or exchange it in the network (the pass zero_padding)"

    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """Where the network pads by reflection or replication."""
        changed = None if evidence.graph is None else _zero_padded(evidence.graph)
        if changed is not None:
            yield _of_graph("zeros in place of reflected or repeated pixels", evidence, changed)


def _of_graph(words: str, evidence: Evidence, changed: fx.GraphModule) -> Trial:
    def pair(place: int) -> tuple[Codes, Codes]:
        case = evidence.case
        return evidence.device[place], case.codes_of(changed, case.inputs.load(evidence.numbers[place]))

    return Trial(words, pair)


def _zero_padded(graph: fx.GraphModule) -> fx.GraphModule | None:
    """A copy that pads with zeros; None if it does so already."""
    changed = copy.deepcopy(graph)
    found = False
    for name, module in list(changed.named_modules()):
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            module.padding_mode, found = "zeros", True
        elif isinstance(module, _PADDINGS):
            changed.set_submodule(name, nn.ZeroPad2d(module.padding))
            found = True
    for node in changed.graph.nodes:
        if node.target is F.pad and _mode(node) not in (None, "constant"):
            node.args, node.kwargs, found = (node.args[0], _widths(node)), {}, True
    changed.recompile()
    return changed if found else None


def _mode(node: fx.Node) -> object:
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("mode")


def _widths(node: fx.Node) -> fx.node.Argument:
    return node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
