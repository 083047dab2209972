"""Findings of a check, with the profile line of the rule that they break."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx

from depth_distill.export.check.ways_out import WayOut
from depth_distill.export.onnx_io.onnx_graph import is_of_onnx, label, operator_of
from depth_distill.quantization.target.target import NpuTarget

Severity = Literal["violation", "warning"]
Place = str | Sequence[onnx.NodeProto]
"""The nodes, or a description of the place, that a finding is about."""


@dataclass(frozen=True)
class Finding:
    """Something that the target refuses, or handles at a cost.

    Attributes:
        severity: ``violation``: the tool chain will refuse it; ``warning``: it has a cost, or support is unknown.
        node: name of the node, or of the first of several.
        op: ONNX operator of the nodes; empty if they have several, or there are none.
        rule: key of the profile, with file and line if the profile was read from a file.
        message: what was found, and what is allowed.
        remedy: how to fix or avoid it; it begins with the pass of a recipe that does so, if there is one.
        pass_: name of that pass, or empty.
    """

    severity: Severity
    node: str
    op: str
    rule: str
    message: str
    remedy: str
    pass_: str = ""

    @property
    def place(self) -> str:
        """Node and operator."""
        return f"{self.node} ({self.op})" if self.op else self.node

    def __str__(self) -> str:
        return f"{self.place}: {self.message} [{self.rule}]; {self.remedy}"


class Findings:
    """Creates findings that refer to the lines of a profile.

    Args:
        target: the profile.
        way_out: the pass that repairs a node which breaks a rule, if there is one.
    """

    def __init__(
        self, target: NpuTarget, way_out: Callable[[onnx.NodeProto, str], WayOut | None] = lambda node, rule: None
    ) -> None:
        self.target = target
        self.way_out = way_out

    def violation(self, place: Place, rule: str, message: str, remedy: str) -> Finding:
        """A finding that the tool chain refuses."""
        return self._finding("violation", place, rule, message, remedy)

    def warning(self, place: Place, rule: str, message: str, remedy: str) -> Finding:
        """A finding with a cost, or with unknown support."""
        return self._finding("warning", place, rule, message, remedy)

    def _finding(self, severity: Severity, place: Place, rule: str, message: str, remedy: str) -> Finding:
        way = self.way_out(place[0], rule) if not isinstance(place, str) and is_of_onnx(place[0]) else None
        if way is not None:
            remedy = f"pass {way.name}{'' if way.is_exact else ', and train behind it'}; or {remedy}"
        return Finding(severity, *_named(place), self._rule(rule), message, remedy, way.name if way else "")

    def capability(self, name: str, place: Place, found: str, instead: str) -> Iterator[Finding]:
        """Nothing if the profile has ``yes``, a violation with the remedy ``instead`` for ``no``, else a warning."""
        support, rule = getattr(self.target.capabilities, name), f"capabilities.{name}"
        if support == "no":
            # Every layer has to be fixed: the names of a few help to find the rest.
            yield Finding("violation", *_named(place, 3), self._rule(rule), f"{found}: {support}", instead)
        elif support == "unconfirmed":
            yield self.warning(place, rule, f"{found}: {support}", "try it on the chip before you rely on it")

    def _rule(self, key: str) -> str:
        if self.target.source is None or " " in key:  # keys with a space are rules of every target, not of a profile
            return key
        place = self.target.line_of(key).split(": ")[0].rpartition("/")[2]
        return f"{key}, {place}"


def listed(values: object, between: str = ", ") -> str:
    """Numbers or words joined for a message."""
    return between.join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)  # type: ignore[attr-defined]


def _named(place: Place, first: int = 1) -> tuple[str, str]:
    """Name of a place in a finding, and the operator that its nodes share."""
    if isinstance(place, str):
        return place, ""
    more = f" and {len(place) - first} more" * (len(place) > first)
    operators = {operator_of(node) for node in place}
    return listed(label(node) for node in place[:first]) + more, operators.pop() if len(operators) == 1 else ""
