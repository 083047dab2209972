"""What probes found beside what the target's profile says."""

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from depth_distill.export.probe.probes import ProbeResult
from depth_distill.quantization.target.target import NpuTarget, Support

_SUPPORT: dict[str, Support] = {"confirmed": "yes", "unsupported": "no"}


@dataclass(frozen=True)
class ProbeReport:
    """What probes found on a tool chain, for a target.

    Attributes:
        target: whose profile is held against them.
        tool_chain: name and version.
        results: in the order in which they were made.
    """

    target: NpuTarget
    tool_chain: str
    results: tuple[ProbeResult, ...]

    def profile_says(self, result: ProbeResult) -> str:
        """The profile's word on it; a dash for operators of other domains, of which profiles know nothing."""
        if result.op is not None and not _is_of_onnx(result.op):
            return "-"
        if result.op is not None:
            return "forbidden" if result.op in self.target.operators.forbidden else "allowed"
        return str(getattr(self.target.capabilities, result.name, f"scales: {self.target.scales}"))

    def promises(self, result: ProbeResult) -> bool:
        """Whether the profile counts on it."""
        return self.profile_says(result) in ("yes", "allowed", "scales: vendor")

    @property
    def broken(self) -> list[ProbeResult]:
        """What the profile counts on, and the tool chain does not do."""
        return [each for each in self.results if each.verdict == "unsupported" and self.promises(each)]

    @property
    def better(self) -> list[ProbeResult]:
        """What the profile rules out, and the tool chain does."""
        refused = ("no", "forbidden")
        return [each for each in self.results if each.verdict == "confirmed" and self.profile_says(each) in refused]

    def capabilities(self) -> dict[str, Support]:
        """What is known now, as a profile writes it; unconfirmed ones are left out."""
        return {
            each.name: _SUPPORT[each.verdict]
            for each in self.results
            if each.verdict in _SUPPORT and hasattr(self.target.capabilities, each.name)
        }

    def forbidden(self) -> list[str]:
        """Operator types of which the tool chain took none: a refusal of some shape does not forbid the rest.

        ONNX's own only, as profiles name no domains: com.microsoft.Gelu would forbid ONNX's Gelu.
        """
        by_op: dict[str, set[str]] = {}
        for each in self.results:
            if each.op is not None and _is_of_onnx(each.op):
                by_op.setdefault(each.op, set()).add(each.verdict)
        return [op for op, verdicts in by_op.items() if verdicts == {"unsupported"}]

    def table(self) -> Table:
        """One row a finding; rows that contradict the profile are marked."""
        # What tool chains say may hold "[/conv_3]" or ":100:", which are markup and emoji to rich unless they are Text.
        table = Table(title=Text(f"{self.tool_chain} probed for {self.target.name}", style="table.title"))
        for heading in ("probe", "verdict", "profile", "what was seen"):
            table.add_column(heading, overflow="fold")
        for each in self.results:
            mark = " (!)" if each in self.broken or each in self.better else ""
            row = (_title(each), each.verdict, self.profile_says(each) + mark, each.reason)
            table.add_row(*map(Text, row))
        counts = {
            word: sum(each.verdict == word for each in self.results)
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


def _title(result: ProbeResult) -> str:
    return result.name if result.op else result.name.replace("_", " ")


def _is_of_onnx(op: str) -> bool:
    return "." not in op  # others have their domain in front
