"""What a check has to say about a file, and which line of the profile says so."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx

from depth_distill.export.onnx_io.onnx_graph import label, operator_of
from depth_distill.quantization.target.target import NpuTarget

Severity = Literal["violation", "warning"]
Place = str | Sequence[onnx.NodeProto]
"""Nodes, or what else a finding is about."""


@dataclass(frozen=True)
class Finding:
    """Something that the target does not take, or takes badly.

    Attributes:
        severity: ``violation``: the tool chain will refuse it; ``warning``: it costs something, or nobody knows.
        node: name of the node, or of the first of several.
        op: its ONNX operator; empty if there are several, or none.
        rule: key of the profile, with file and line where it came from one.
        message: what was found, and what is allowed.
        remedy: a way out.
    """

    severity: Severity
    node: str
    op: str
    rule: str
    message: str
    remedy: str

    @property
    def place(self) -> str:
        """The node and its operator."""
        return f"{self.node} ({self.op})" if self.op else self.node

    def __str__(self) -> str:
        return f"{self.place}: {self.message} [{self.rule}]; {self.remedy}"


class Findings:
    """Writes findings with the line of a profile.

    Args:
        target: the profile.
    """

    def __init__(self, target: NpuTarget) -> None:
        self.target = target

    def violation(self, place: Place, rule: str, message: str, remedy: str) -> Finding:
        """What the tool chain refuses."""
        return Finding("violation", *_named(place), self._rule(rule), message, remedy)

    def warning(self, place: Place, rule: str, message: str, remedy: str) -> Finding:
        """What costs something, or is not known."""
        return Finding("warning", *_named(place), self._rule(rule), message, remedy)

    def capability(self, name: str, place: Place, found: str, instead: str) -> Iterator[Finding]:
        """Nothing where the profile says ``yes``; a violation, with what to do ``instead``, where it says ``no``."""
        support, rule = getattr(self.target.capabilities, name), f"capabilities.{name}"
        if support == "no":
            # Each layer has to be dealt with: the names of a few help to find the rest.
            yield Finding("violation", *_named(place, 3), self._rule(rule), f"{found}: {support}", instead)
        elif support == "unconfirmed":
            yield self.warning(place, rule, f"{found}: {support}", "try it on the chip before you rely on it")

    def _rule(self, key: str) -> str:
        if self.target.source is None or " " in key:  # words: a rule of every target
            return key
        place = self.target.line_of(key).split(": ")[0].rpartition("/")[2]
        return f"{key}, {place}"


def listed(values: object, between: str = ", ") -> str:
    """Numbers or words as they read in a sentence."""
    return between.join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)  # type: ignore[attr-defined]


def _named(place: Place, first: int = 1) -> tuple[str, str]:
    """What a finding calls its nodes, and the operator that they share."""
    if isinstance(place, str):
        return place, ""
    more = f" and {len(place) - first} more" * (len(place) > first)
    operators = {operator_of(node) for node in place}
    return listed(label(node) for node in place[:first]) + more, operators.pop() if len(operators) == 1 else ""
