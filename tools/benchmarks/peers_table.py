"""The tables of ``peers.py``: deviation from FP32, network by network and toolkit by toolkit, and the aim."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

OURS, UNTOUCHED = "depth-distill", "untouched"
PER_CHANNEL, _PER_TENSOR = "one scale per channel", "per tensor"
_AIM = 0.5  # of the best peer's deviation


@dataclass
class Row:
    """One method of one toolkit on one network.

    Attributes:
        network: name in the hard set.
        peer: title of the toolkit.
        method: name of its method.
        kind: what it returned: ``float``, ``quantized`` or ``outputs``.
        granularity: of its weights, as read from the quantized file.
        scores: deviation in mm, its 99th percentile, SQNR in dB, abs_rel.
        cpu_seconds: time of the processor.
        peak_mb: largest memory of the process.
        version: version of the toolkit.
        notes: what it said.
        error: why there are no scores.
        date: when it was measured.
    """

    network: str
    peer: str
    method: str
    kind: str = ""
    granularity: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    cpu_seconds: float = math.nan
    peak_mb: float = math.nan
    version: str = ""
    notes: list[str] = field(default_factory=list)
    error: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        # JSON has no NaN.
        self.cpu_seconds = math.nan if self.cpu_seconds is None else self.cpu_seconds
        self.peak_mb = math.nan if self.peak_mb is None else self.peak_mb

    @property
    def deviation(self) -> float:
        """Deviation from FP32 in mm; infinite where it failed."""
        return self.scores.get("deviation_mm", math.inf)


@dataclass(frozen=True)
class Aim:
    """What is compared for one network.

    Attributes:
        ours: our best row.
        peer: the best row of the others with one scale per tensor.
        as_fast: the same among those that took no longer than ours; None if all took longer.
        per_channel: deviation of the untouched file with one scale per channel.
    """

    ours: Row
    peer: Row
    as_fast: Row | None
    per_channel: float

    @property
    def beats_peers(self) -> bool:
        """Whether ours is at most half of the best peer's, in no more time."""
        return self.as_fast is None or self.ours.deviation <= _AIM * self.as_fast.deviation

    @property
    def beats_per_channel(self) -> bool:
        """Whether ours is at most that of one scale per channel."""
        return self.ours.deviation <= self.per_channel


def aim_of(rows: Sequence[Row]) -> Aim | None:
    """The comparison on the rows of one network; None while one side is missing."""
    ours = [row for row in rows if row.peer == OURS and row.scores]
    peers = [row for row in rows if row.peer not in (OURS, UNTOUCHED) and row.scores and row.granularity == _PER_TENSOR]
    if not ours or not peers:
        return None
    best = min(ours, key=lambda row: row.deviation)
    as_fast = [row for row in peers if row.cpu_seconds <= best.cpu_seconds]
    return Aim(
        best,
        min(peers, key=lambda row: row.deviation),
        min(as_fast, key=lambda row: row.deviation) if as_fast else None,
        next((row.deviation for row in rows if row.method == PER_CHANNEL and row.scores), math.inf),
    )


def tables(rows: Sequence[Row]) -> str:
    """Markdown: deviation, SQNR, abs_rel, the aim, cost, and what failed."""
    networks = list(dict.fromkeys(row.network for row in rows))
    parts = [
        "## Deviation from FP32, mm",
        _matrix(rows, networks, "deviation_mm", 2),
        "## SQNR of the codes, dB",
        _matrix(rows, networks, "sqnr_db", 1),
        "## abs_rel",
        _matrix(rows, networks, "abs_rel", 4),
        "## The aim",
        _aims(rows, networks),
        "## What it costs, seconds of one core / MB",
        _costs(rows, networks),
        "## What failed",
        _failures(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _methods(rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = dict.fromkeys((row.peer, row.method) for row in rows)
    order = {UNTOUCHED: 0, OURS: 1}
    return sorted(found, key=lambda key: (order.get(key[0], 2), key[0]))


def _matrix(rows: Sequence[Row], networks: Sequence[str], score: str, digits: int) -> str:
    by_key = {(row.peer, row.method, row.network): row for row in rows}
    lines = [_line("toolkit", "method", "scales of weights", "given", *networks), _rule(4 + len(networks))]
    for peer, method in _methods(rows):
        found = [by_key.get((peer, method, network)) for network in networks]
        known = [row for row in found if row is not None and row.scores]
        scales = " / ".join(dict.fromkeys(row.granularity.split(",")[0] for row in known)) or "-"
        kinds = " / ".join(dict.fromkeys(_KINDS[row.kind] for row in known)) or "-"
        cells = [_cell(row, score, digits) for row in found]
        lines.append(_line(peer, method.replace("_", " "), scales, kinds, *cells))
    return "\n".join(lines)


_KINDS = {"float": "float file", "quantized": "quantized file", "outputs": "quantized network", "": "-"}


def _cell(row: Row | None, score: str, digits: int) -> str:
    if row is None:
        return "-"
    return f"{row.scores[score]:.{digits}f}" if row.scores else "failed"


def _aims(rows: Sequence[Row], networks: Sequence[str]) -> str:
    lines = [
        _line("network", "ours", "best peer", "best peer as fast", "half of it", "per channel", "at most that"),
        _rule(7),
    ]
    for network in networks:
        aim = aim_of([row for row in rows if row.network == network])
        if aim is None:
            continue
        per_channel = f"{aim.per_channel:.2f}" if aim.per_channel < math.inf else "-"
        reached = _met(aim.beats_per_channel) if aim.per_channel < math.inf else "-"
        as_fast = _named(aim.as_fast) if aim.as_fast is not None else "none"
        lines.append(
            _line(
                network, _named(aim.ours), _named(aim.peer), as_fast, _met(aim.beats_peers), per_channel, reached
            )
        )  # fmt: skip
    return "\n".join(lines)


def _named(row: Row) -> str:
    return f"{row.deviation:.2f} ({row.peer} {row.method.replace('_', ' ')}, {row.cpu_seconds:.0f} s)"


def _met(holds: bool) -> str:
    return "met" if holds else "**not met**"


def _costs(rows: Sequence[Row], networks: Sequence[str]) -> str:
    by_key = {(row.peer, row.method, row.network): row for row in rows}
    lines = [_line("toolkit", "method", "version", *networks), _rule(3 + len(networks))]
    for peer, method in _methods(rows):
        found = [by_key.get((peer, method, network)) for network in networks]
        if peer == UNTOUCHED:
            continue
        versions = " / ".join(dict.fromkeys(row.version for row in found if row is not None and row.version)) or "-"
        cells = [
            "-" if row is None or math.isnan(row.cpu_seconds) else f"{row.cpu_seconds:.0f} / {row.peak_mb:.0f}"
            for row in found
        ]
        lines.append(_line(peer, method.replace("_", " "), versions, *cells))
    return "\n".join(lines)


def _failures(rows: Sequence[Row]) -> str:
    failed: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.error:
            failed.setdefault((row.peer, row.method, row.error), []).append(row.network)
    lines = [_line("toolkit", "method", "networks", "error"), _rule(4)]
    for (peer, method, error), networks in failed.items():
        lines.append(_line(peer, method.replace("_", " "), ", ".join(networks), f"`{error.replace('|', '/')}`"))
    return "\n".join(lines) if failed else "Nothing."


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(count: int) -> str:
    return f"|{' --- |' * count}"
