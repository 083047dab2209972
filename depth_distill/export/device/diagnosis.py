"""What happened between the float network and the device: the error divided, suspects tried, one of them named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from depth_distill.codecs.table_fit import Deviations, TableFit, deviations, fit_table
from depth_distill.errors import DataError, UserError
from depth_distill.export.device.case import Case, Codes
from depth_distill.export.device.evidence import Evidence
from depth_distill.export.device.patterns import Patterns, find_patterns
from depth_distill.export.device.shares import CREDIT, Shares, divide_error
from depth_distill.export.device.suspects.base import Suspect, Trial
from depth_distill.export.device.suspects.registry import SUSPECTS

EXPLAINS = 0.5
"""Least share of the squared error of codes that a suspect has to explain: two independent faults cannot both."""
ROUNDS = 2.0
"""Times the squared error of rounding to 8 bits from which on there is something to explain."""
CURVED = 0.5
"""Share of the error from which on a curve of no known kind is named: INT8 that is sound has up to 0.3."""
HELPS = 0.7
"""A table has to take the mean error below this part of it for that; on sound networks it takes it to 0.85."""
COARSE = 4.0
"""Times the error of the output's step, and"""
LARGE = 0.02
"""abs_rel to the float network, from which on INT8 within the network is called coarse."""
MATTERS = 0.9
"""What is named has to take the mean error in metres below this part: codes of a thermometer mean the same reversed."""
_CLOSE = 0.01  # a later suspect has to explain so much more of the squared error that is left by an earlier one
_BYTE_VARIANCE = (1 / 255) ** 2 / 12


@dataclass(frozen=True)
class Tried:
    """A suspect in one of the ways in which it would show.

    Attributes:
        suspect: the suspect.
        trial: the way.
        explains: share of the squared error of codes that it explains; negative where it makes it larger.
    """

    suspect: Suspect
    trial: Trial
    explains: float

    @property
    def title(self) -> str:
        """The suspect and the way, in words."""
        return f"{self.suspect.title} {self.trial.detail}"

    @property
    def label(self) -> str:
        """The same in few words, for a picture."""
        words = self.suspect.key.replace("_", " ")
        return words if self.suspect.name == "sigmoid" else f"{words}: {self.trial.detail}"


@dataclass(frozen=True)
class Diagnosis:
    """What happened.

    Attributes:
        evidence: what it was found from.
        tried: every suspect that could be tried, the one that explains most first.
        named: the one that explains the error; None if none does.
        explained: codes of the device and of the float network with what is named taken away.
        fit: the decode table from the device's codes as they are.
        fit_explained: the decode table from ``explained``.
        shares: the error and its parts.
        patterns: how what is left depends on the place.
    """

    evidence: Evidence
    tried: tuple[Tried, ...]
    named: Tried | None
    explained: tuple[Codes, Codes]
    fit: TableFit
    fit_explained: TableFit
    shares: Shares
    patterns: Patterns

    @cached_property
    def fitted_mm(self) -> float:
        """Mean absolute error in mm that is left where what is named is taken away; all of it where nothing is."""
        if self.named is None:
            return self.shares.mean_mm
        of_curve = self.named.suspect.kind == "curve"
        return _apart(self.evidence.case, _all(self.evidence, self.named.trial) if of_curve else self.explained).mean_mm

    @cached_property
    def cured(self) -> Deviations:
        """Deviation that is to be expected behind the cure, on images that were not fitted on."""
        if self.named is None or self.named.suspect.kind == "curve":
            return self.fit.after
        return _apart(self.evidence.case, self.explained)

    @property
    def finding(self) -> str:
        """What was found, in a word: the name of a suspect, or one of these."""
        if self.named is not None:
            return self.named.suspect.key
        if not self._beyond_rounding:
            return "sound"
        parts = self.shares.parts
        if self.patterns.in_tiles and parts["spatial"].share > 0.1:
            return "tiles"
        if self.patterns.at_border:
            return "border"
        table_helps = self.fit.after.mean_mm < HELPS * self.fit.before.mean_mm
        if parts["systematic"].share > CURVED and table_helps:
            return "unknown_curve"
        if parts["clipping"].share > CURVED:
            return "clipping"
        if parts["spatial"].share > CURVED:
            return "unknown_place"
        if parts["per_image"].share > CURVED:
            return "per_image"
        if self.shares.rms_mm > COARSE * self.shares.step_mm and self.shares.relative > LARGE:
            return "coarse"
        return "sound"

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.finding == "sound"

    @property
    def _beyond_rounding(self) -> bool:
        squares = (self.evidence.device - self.evidence.expected).astype(np.float64) ** 2
        return bool(squares.mean() > ROUNDS * _BYTE_VARIANCE)


def diagnose(
    evidence: Evidence,
    suspects: Sequence[Suspect] = SUSPECTS,
    on_suspect: Callable[[int, int], object] = lambda done, of: None,
) -> Diagnosis:
    """Try the suspects, name the one that explains the error, and divide the error among its parts.

    A suspect is named if it explains more than half of the squared error of the codes, on up to 12 images, and the
    error is more than twice that of rounding to 8 bits. Nothing is fitted for that, so nothing can be fitted too
    closely. Of several the one that explains most is named; an earlier one of the list where they explain the same.

    Args:
        evidence: codes of the device and of the float network.
        suspects: what is tried.
        on_suspect: called with how many suspects are done, and how many there are.

    Raises:
        DataError: there are fewer than two images.
    """
    if len(evidence) < 2:
        raise DataError(f"received {len(evidence)} image, expected 2 or more: a diagnosis is judged on other images")
    tried = _try_all(evidence, suspects, on_suspect)
    named = _named(evidence, tried)
    case = evidence.case
    pairs = None if named is None or named.suspect.kind == "curve" else _all(evidence, named.trial)
    before = _apart(case, (evidence.device, evidence.expected))
    if pairs is not None and _apart(case, pairs).mean_mm > MATTERS * before.mean_mm:
        named = pairs = None
    explained = pairs or (evidence.device, evidence.expected)
    fit = _fit(evidence, (evidence.device, evidence.expected))
    fit_explained = fit if pairs is None else _fit(evidence, explained)
    original, behind = (
        (case.oriented(np.clip(one, 0, 1)), case.oriented(np.clip(two, 0, 1)))
        for one, two in ((evidence.device, evidence.expected), explained)
    )
    tables = fit_explained
    if case.near_is_one:  # tables fall then: shares are divided among codes whose 0 is near
        tables = fit_table(case.codec, *behind)
    credit = CREDIT["curve" if named is None else named.suspect.kind]
    shares = divide_error(case.codec, original, behind, credit, tables)
    return Diagnosis(
        evidence,
        tuple(sorted(tried, key=lambda each: -each.explains)),
        named,
        explained,
        fit,
        fit_explained,
        shares,
        find_patterns(shares.left_m),
    )


def _try_all(evidence: Evidence, suspects: Sequence[Suspect], on_suspect: Callable[[int, int], object]) -> list[Tried]:
    whole = _squared(evidence, lambda place: (evidence.device[place], evidence.expected[place]))
    tried = []
    for done, suspect in enumerate(suspects, 1):
        try:
            for trial in suspect.trials(evidence):
                left = _squared(evidence, trial.pair)
                tried.append(Tried(suspect, trial, 1 - left / whole if whole else 0.0))
        except (UserError, RuntimeError):  # a changed network that cannot run explains nothing
            pass
        on_suspect(done, len(suspects))
    return tried


def _named(evidence: Evidence, tried: Sequence[Tried]) -> Tried | None:
    squares = (evidence.device - evidence.expected).astype(np.float64) ** 2
    if squares.mean() <= ROUNDS * _BYTE_VARIANCE:
        return None
    best: Tried | None = None
    for each in tried:
        if each.explains > EXPLAINS and (best is None or 1 - each.explains < (1 - _CLOSE) * (1 - best.explains)):
            best = each
    return best


def _squared(evidence: Evidence, pair: Callable[[int], tuple[Codes, Codes]]) -> float:
    total = 0.0
    for place in evidence.probed:
        one, two = pair(place)
        apart = one.astype(np.float64) - two
        if not bool(np.isfinite(apart).all()):
            return float("inf")
        total += float((apart**2).mean())
    return total / len(evidence.probed)


def _apart(case: Case, pair: tuple[Codes, Codes]) -> Deviations:
    said_m, true_m = (case.depth_m(np.clip(each, 0, 1)) for each in pair)
    return deviations(said_m, true_m)


def _all(evidence: Evidence, trial: Trial) -> tuple[Codes, Codes]:
    pairs = [trial.pair(place) for place in range(len(evidence))]
    return np.stack([one for one, _ in pairs]), np.stack([two for _, two in pairs])


def _fit(evidence: Evidence, pair: tuple[Codes, Codes]) -> TableFit:
    device, expected = (np.clip(each, 0, 1) for each in pair)
    return fit_table(evidence.case.codec, device, expected, near_is_one=evidence.case.near_is_one)
