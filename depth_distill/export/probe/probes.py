"""Find out what a tool chain supports by running tiny models on it and comparing their outputs.

A capability is *confirmed* if the model loads, runs, and its outputs match the file and not a wrong reading of it
(:mod:`~depth_distill.export.probe.models`); *unsupported* if it is refused, or the outputs match a wrong reading; and
*unconfirmed* otherwise.
"""

import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from onnx import numpy_helper

from depth_distill.errors import ConfigError
from depth_distill.export.backends.backends import BackendRun
from depth_distill.export.interface.calibration_set import write_tensors
from depth_distill.export.probe.judgement import Arrays, Probe, Variant, Verdict, judge, reference
from depth_distill.export.probe.models import float_conv, float_image
from depth_distill.export.probe.operators import OperatorProbe
from depth_distill.export.probe.substitutions import SubstitutionProbe, judge_substitution, together
from depth_distill.quantization.target.substitutions import ITSELF, UNCONFIRMED

_LONGEST = 150  # characters of a failure reason in a table
_PTQ_TOLERANCE = 0.05  # of the largest value: input, weight and output have steps of 1/127, whose errors partly cancel
_PTQ_IMAGES = 8  # 1152 outputs, many more values than INT8 has


class ToolChain(Protocol):
    """The interface of :class:`~depth_distill.export.backends.backends.Backend` that probes need."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def takes(self) -> frozenset[str]:
        """Kinds of files that it runs."""

    @property
    def quantizes(self) -> bool:
        """Whether it has its own post-training quantization."""

    @property
    def simulator(self) -> bool:
        """Whether it simulates a chip."""

    def missing(self) -> str | None:
        """Why it cannot run on this machine; None if it can."""

    def run(
        self,
        model: Path,
        inputs: np.ndarray,
        calibration: Path | None = None,
        options: Mapping[str, str] | None = None,
        repeats: int = 20,
    ) -> BackendRun:
        """See :meth:`~depth_distill.export.backends.backends.Backend.run`."""


@dataclass(frozen=True)
class ProbeResult:
    """Result of a probe.

    Attributes:
        name: name of the capability or operator.
        verdict: the outcome.
        reason: the measured errors, or the tool chain's reason for refusing.
        op: ONNX type, for operators.
        computed: what is computed in place of the activation ``name``, as profiles say it; empty for other probes.
    """

    name: str
    verdict: Verdict
    reason: str
    op: str | None = None
    computed: str = ""


class RefusalError(Exception):
    """A tool chain refused a model; the message is its reason."""


class Prober:
    """Runs probes on a tool chain.

    Args:
        backend: the tool chain; ``version`` is set from its first run, by the constructor.

    Raises:
        ConfigError: the tool chain is missing, or refuses even a float convolution, so that refusals mean nothing.
    """

    def __init__(self, backend: ToolChain) -> None:
        reason = backend.missing()
        if reason is not None:
            raise ConfigError(reason)
        self.backend = backend
        self.version = ""
        try:
            self._run(float_conv(), float_image())
        except RefusalError as refusal:
            raise ConfigError(
                f"backend {backend.name} does not run a plain float convolution, so its refusals would prove nothing; "
                f"it fails with: {refusal}"
            ) from refusal

    def capability(self, probe: Probe) -> ProbeResult:
        """Whether a capability is honoured."""
        if not self.backend.takes:
            reason = f"{self.backend.name} only takes float files, which it quantizes itself"
            return ProbeResult(probe.name, "unconfirmed", reason)
        refusals = []
        supported_form = False
        for variant in probe.variants:
            try:
                found = self._run(variant.model, probe.inputs)
            except RefusalError as refusal:
                words, of_form = self._explained(refusal, variant, probe)
                supported_form |= not of_form
                refusals.append(_titled(variant, words))
                continue
            verdict, reason = self._judge(variant, probe, found)
            taken = f"; refused: {'; '.join(refusals)}" if refusals else ""
            return ProbeResult(probe.name, verdict, f"{_titled(variant, reason)}{taken}")
        return ProbeResult(probe.name, "unsupported" if supported_form else "unconfirmed", "; ".join(refusals))

    def operator(self, probe: OperatorProbe) -> ProbeResult:
        """Whether an operator of a file is accepted, and computed as ONNX defines it."""
        if probe.problem:
            return ProbeResult(probe.name, "unconfirmed", probe.problem, probe.op)
        refusals = []
        supported_form = False
        for variant in probe.variants if self.backend.takes else probe.variants[-1:]:
            try:
                truth = reference(variant.model, probe.inputs)
            except Exception as error:  # ONNX Runtime and the evaluator have no narrower common base class
                reason = f"the extracted operator itself does not run: {failure_reason(str(error))}"
                return ProbeResult(probe.name, "unconfirmed", _titled(variant, reason), probe.op)
            try:
                found = self._run(variant.model, probe.inputs)
            except RefusalError as refusal:
                words, of_form = self._explained(refusal, variant, probe)
                supported_form |= not of_form
                refusals.append(_titled(variant, words))
                continue
            if not self.backend.takes:
                variant = dataclasses.replace(variant, tolerance=_PTQ_TOLERANCE)
            verdict, reason = judge(variant, found, truth, ())
            reason = _titled(variant, self._on_simulator(reason))
            if refusals:
                return ProbeResult(probe.name, "unconfirmed", f"{reason}, but {refusals[0]}", probe.op)
            return ProbeResult(probe.name, verdict, reason, probe.op)
        # These refusals prove nothing, as the operator is used differently in the network.
        if probe.stand_in:
            reason = f"refused with a constant in place of an input of another shape or type: {refusals[0]}"
            return ProbeResult(probe.name, "unconfirmed", reason, probe.op)
        if probe.inputs.dtype.kind != "f":
            reason = f"refused as a network whose input is {probe.inputs.dtype}: {refusals[0]}"
            return ProbeResult(probe.name, "unconfirmed", reason, probe.op)
        return ProbeResult(probe.name, "unsupported" if supported_form else "unconfirmed", refusals[0], probe.op)

    def own_ptq(self) -> ProbeResult:
        """Whether it quantizes float files itself: few distinct outputs, with an error within the bound of rounding."""
        if not self.backend.quantizes:
            return ProbeResult("own PTQ", "unsupported", f"{self.backend.name} has no quantization of its own")
        images = np.random.default_rng(3).uniform(-1, 1, (_PTQ_IMAGES, *float_image().shape[1:])).astype(np.float32)
        model = float_conv()
        truth = np.concatenate([reference(model, image[None])["codes"] for image in images])
        try:
            found = self._run(model, images, quantize=True)["codes"]
        except RefusalError as refusal:
            return ProbeResult("own PTQ", "unsupported", str(refusal))
        if found.shape != truth.shape:
            return ProbeResult("own PTQ", "unconfirmed", f"returns the shape {found.shape}, expected {truth.shape}")
        levels = len(np.unique(found))
        error, bound = float(np.abs(found - truth).max()), _ptq_bound(model, images, truth)
        if levels > 256:
            reason = f"accepted, but its output has {levels} distinct values, more than the 256 of INT8"
            return ProbeResult("own PTQ", "unsupported", reason)
        numbers = f"{levels} output values ({truth.size} before), error {error:.3f} of at most {bound:.3f}"
        verdict: Verdict = "confirmed" if error <= bound else "unconfirmed"
        return ProbeResult("own PTQ", verdict, self._on_simulator(numbers))

    def substitutions(self, probes: Sequence[SubstitutionProbe]) -> list[ProbeResult]:
        """What is computed in place of each activation, in float and behind the tool chain's own PTQ.

        A substitution in either form counts; the operator itself has to be seen in each form that runs. All activations
        are in one file; only where that is refused, each has a file of its own.
        """
        forms = {"in float": False} if self.backend.takes else {}
        if self.backend.quantizes:
            forms["behind its own PTQ"] = True
        seen: dict[str, dict[str, str]] = {each.operator: {} for each in probes}
        reasons: dict[str, list[str]] = {each.operator: [] for each in probes}
        for form, quantize in forms.items():
            for probe, outputs in zip(probes, self._of_each(probes, quantize), strict=True):
                if isinstance(outputs, RefusalError):
                    reasons[probe.operator].append(f"{form}: refused: {outputs}")
                    continue
                found, reason = UNCONFIRMED, f"returns nothing for {probe.operator}"
                if probe.operator in outputs:
                    rounded = quantize or not self.backend.takes
                    found, reason = judge_substitution(probe, outputs[probe.operator], rounded)
                seen[probe.operator][form] = found
                reasons[probe.operator].append(f"{form}: {reason}")
        return [
            self._substitution(name, list(found.values()), "; ".join(reasons[name])) for name, found in seen.items()
        ]

    def _of_each(self, probes: Sequence[SubstitutionProbe], quantize: bool) -> Iterator[Arrays | RefusalError]:
        """Outputs of each probe's file, or why it was refused."""
        try:
            every = self._run(together(probes), probes[0].inputs, quantize)
        except RefusalError:
            for probe in probes:
                try:
                    yield self._run(probe.model, probe.inputs, quantize)
                except RefusalError as refusal:
                    yield refusal
        else:
            yield from (every for _ in probes)

    def _substitution(self, operator: str, found: Sequence[str], reason: str) -> ProbeResult:
        named = [each for each in found if each not in (ITSELF, UNCONFIRMED)]
        computed = named[-1] if named else ITSELF if set(found) == {ITSELF} else UNCONFIRMED
        verdict: Verdict = "unsupported" if named else "confirmed" if computed == ITSELF else "unconfirmed"
        reason = self._on_simulator(reason) if found else reason or "nothing to run"
        return ProbeResult(operator, verdict, reason, computed=computed)

    def _judge(self, variant: Variant, probe: Probe, found: Arrays) -> tuple[Verdict, str]:
        truth = reference(variant.reading or variant.model, probe.inputs)
        wrong_readings = [reference(wrong_reading.model, probe.inputs) for wrong_reading in variant.wrong_readings]
        verdict, reason = judge(variant, found, truth, wrong_readings)
        if verdict == "confirmed" and probe.caveat:
            reason += f" ({probe.caveat})"
        return verdict, self._on_simulator(reason)

    def _explained(self, refusal: RefusalError, variant: Variant, probe: Probe) -> tuple[str, bool]:
        """The reason for a refusal, and whether it concerns the variant's form."""
        if variant.control is None or not self._refuses(variant.control[1], probe.inputs):
            return str(refusal), False
        what = "operator" if isinstance(probe, OperatorProbe) else "capability"
        return f"the form is refused, not the {what} ({variant.control[0]} is refused, too): {refusal}", True

    def _on_simulator(self, reason: str) -> str:
        return f"{reason}; in a simulator" if self.backend.simulator else reason

    def _refuses(self, model: onnx.ModelProto, inputs: np.ndarray) -> bool:
        try:
            self._run(model, inputs)
        except RefusalError:
            return True
        return False

    def _run(self, model: onnx.ModelProto, inputs: np.ndarray, quantize: bool = False) -> Arrays:
        with tempfile.TemporaryDirectory(prefix="probe-") as name:
            folder = Path(name)
            onnx.save(model, folder / "probe.onnx")
            calibration = None
            if quantize or not self.backend.takes:
                calibration = folder / "calibration"
                write_tensors(inputs, calibration)
            try:
                run = self.backend.run(folder / "probe.onnx", inputs, calibration, repeats=0)
            except ConfigError as error:
                raise RefusalError(failure_reason(str(error))) from error
        self.version = run.version
        return run.outputs


def failure_reason(message: str) -> str:
    """The line of a tool chain's output with the reason of a failure, shortened, and without local folders."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line for line in lines[1:] if re.search(r"error\b", line, re.IGNORECASE)] or lines[1:] or lines
    words = re.sub(r"(?<![\w/])(/[^\s/:]+)+/", "", reasons[-1])
    signal = re.search(r"exit code -(\d+)", lines[0])
    words = words if len(words) <= _LONGEST else words[: _LONGEST - 3] + "..."
    return f"aborts with signal {signal[1]}: {words}" if signal else words


def _ptq_bound(model: onnx.ModelProto, images: np.ndarray, truth: np.ndarray) -> float:
    """Worst-case error of rounding input, weight and output by half a step; symmetric steps are max / 127."""
    weights = next(numpy_helper.to_array(each) for each in model.graph.initializer)
    sums = np.abs(weights).sum(axis=(1, 2, 3)).max(), np.abs(images).sum(axis=1).max()
    steps = [float(np.abs(each).max()) / 127 for each in (images, weights, truth)]
    return float(steps[0] * sums[0] + steps[1] * sums[1] + steps[2]) / 2


def _titled(variant: Variant, words: str) -> str:
    return f"{variant.title}: {words}" if variant.title else words


def run_probes(
    prober: Prober,
    probes: Sequence[Probe],
    operators: Sequence[OperatorProbe],
    announce: Callable[[str], None],
    substitutions: Sequence[SubstitutionProbe] = (),
) -> list[ProbeResult]:
    """Probe capabilities, own PTQ, activations and operators, in this order; ``announce`` is called with each name."""
    results = []
    for probe in probes:
        announce(probe.name)
        results.append(prober.capability(probe))
    announce("own PTQ")
    results.append(prober.own_ptq())
    if substitutions:
        announce("activations")
        results += prober.substitutions(substitutions)
    for operator in operators:
        announce(operator.name)
        results.append(prober.operator(operator))
    return results
