"""What probes found beside what the target's profile says."""

from dataclasses import dataclass

from rich.table import Table

from depth_distill.export.probes import Finding
from depth_distill.quantization.target import NpuTarget, Support

_SUPPORT: dict[str, Support] = {"confirmed": "yes", "unsupported": "no"}


@dataclass(frozen=True)
class ProbeReport:
    """Findings on a tool chain, for a target.

    Attributes:
        target: whose profile is held against them.
        tool_chain: name and version.
        findings: in the order in which they were made.
    """

    target: NpuTarget
    tool_chain: str
    findings: tuple[Finding, ...]

    def profile_says(self, finding: Finding) -> str:
        """The profile's word on it."""
        if finding.op is not None:
            return "forbidden" if finding.op in self.target.operators.forbidden else "allowed"
        return str(getattr(self.target.capabilities, finding.name, f"scales: {self.target.scales}"))

    def promises(self, finding: Finding) -> bool:
        """Whether the profile counts on it."""
        return self.profile_says(finding) in ("yes", "allowed", "scales: vendor")

    @property
    def broken(self) -> list[Finding]:
        """What the profile counts on, and the tool chain does not do."""
        return [each for each in self.findings if each.verdict == "unsupported" and self.promises(each)]

    @property
    def better(self) -> list[Finding]:
        """What the profile rules out, and the tool chain does."""
        refused = ("no", "forbidden")
        return [each for each in self.findings if each.verdict == "confirmed" and self.profile_says(each) in refused]

    def capabilities(self) -> dict[str, Support]:
        """What is known now, as a profile writes it; unconfirmed ones are left out."""
        return {
            each.name: _SUPPORT[each.verdict]
            for each in self.findings
            if each.verdict in _SUPPORT and hasattr(self.target.capabilities, each.name)
        }

    def forbidden(self) -> list[str]:
        """Operator types of which the tool chain took none: a refusal of some shape does not forbid the rest."""
        by_op: dict[str, set[str]] = {}
        for each in self.findings:
            if each.op is not None:
                by_op.setdefault(each.op, set()).add(each.verdict)
        return [op for op, verdicts in by_op.items() if verdicts == {"unsupported"}]

    def table(self) -> Table:
        """One row a finding; rows that contradict the profile are marked."""
        table = Table(title=f"{self.tool_chain} probed for {self.target.name}")
        for heading in ("probe", "verdict", "profile", "what was seen"):
            table.add_column(heading, overflow="fold")
        for each in self.findings:
            mark = " (!)" if each in self.broken or each in self.better else ""
            table.add_row(_title(each), each.verdict, self.profile_says(each) + mark, each.reason)
        counts = {
            word: sum(each.verdict == word for each in self.findings)
            for word in ("confirmed", "unsupported", "unconfirmed")
        }
        table.caption = ", ".join(f"{count} {word}" for word, count in counts.items())
        return table

    def disagreements(self) -> list[str]:
        """One line each."""
        return [
            *(f"{_title(each)}: the profile counts on it, and it is unsupported" for each in self.broken),
            *(f"{_title(each)}: the profile rules it out, and it works" for each in self.better),
        ]


def _title(finding: Finding) -> str:
    return finding.name if finding.op else finding.name.replace("_", " ")
