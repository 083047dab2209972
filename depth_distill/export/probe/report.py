"""Results of probes compared with the target's profile."""

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from depth_distill.export.probe.probes import ProbeResult
from depth_distill.quantization.target.substitutions import ITSELF, UNCONFIRMED
from depth_distill.quantization.target.target import NpuTarget, Support

_SUPPORT: dict[str, Support] = {"confirmed": "yes", "unsupported": "no"}


@dataclass(frozen=True)
class ProbeReport:
    """Results of probes on a tool chain, for a target.

    Attributes:
        target: target whose profile they are compared with.
        tool_chain: name and version of the tool chain.
        results: results in the order of the probes.
    """

    target: NpuTarget
    tool_chain: str
    results: tuple[ProbeResult, ...]

    def profile_value(self, result: ProbeResult) -> str:
        """The profile's value for a result; a dash for operators of other domains, which profiles do not cover."""
        if result.computed:
            return self.target.substitutions.get(result.name, UNCONFIRMED)
        if result.op is not None and not _is_of_onnx(result.op):
            return "-"
        if result.op is not None:
            if result.op in self.target.operators.forbidden:
                return "forbidden"
            return "allowed" if self.target.operators.takes(result.op) else "not listed"
        return str(getattr(self.target.capabilities, result.name, f"scales: {self.target.scales}"))

    def profile_claims(self, result: ProbeResult) -> bool:
        """Whether the profile claims that it is supported."""
        if result.computed:
            return self.profile_value(result) == ITSELF
        return self.profile_value(result) in ("yes", "allowed", "scales: vendor")

    @property
    def overstated(self) -> list[ProbeResult]:
        """Results that the profile claims to be supported, but that are unsupported."""
        return [each for each in self.results if each.verdict == "unsupported" and self.profile_claims(each)]

    @property
    def understated(self) -> list[ProbeResult]:
        """Results that the profile rules out, but that are confirmed."""
        refused = ("no", "forbidden", "not listed")

        def rules_out(each: ProbeResult) -> bool:
            value = self.profile_value(each)
            return value not in (ITSELF, UNCONFIRMED) if each.computed else value in refused

        return [each for each in self.results if each.verdict == "confirmed" and rules_out(each)]

    def substitutions(self) -> dict[str, str]:
        """What is computed in place of each activation, as values of a profile; unconfirmed ones are left out."""
        return {each.name: each.computed for each in self.results if each.computed not in ("", UNCONFIRMED)}

    def capabilities(self) -> dict[str, Support]:
        """Probed capabilities as values of a profile; unconfirmed ones are left out."""
        return {
            each.name: _SUPPORT[each.verdict]
            for each in self.results
            if each.verdict in _SUPPORT and hasattr(self.target.capabilities, each.name)
        }

    def forbidden(self) -> list[str]:
        """Operator types that the tool chain refused in every form; a refusal of some shapes does not forbid the rest.

        Only ONNX's own operators, as profiles name no domains: com.microsoft.Gelu would forbid ONNX's Gelu.
        """
        by_op: dict[str, set[str]] = {}
        for each in self.results:
            if each.op is not None and _is_of_onnx(each.op):
                by_op.setdefault(each.op, set()).add(each.verdict)
        return [op for op, verdicts in by_op.items() if verdicts == {"unsupported"}]

    def table(self) -> Table:
        """One row per result; rows that contradict the profile are marked."""
        # Messages of tool chains may contain "[/conv_3]" or ":100:", which rich parses as markup and emoji unless Text.
        table = Table(title=Text(f"{self.tool_chain} probed for {self.target.name}", style="table.title"))
        for heading in ("probe", "verdict", "profile", "what was seen"):
            table.add_column(heading, overflow="fold")
        for each in self.results:
            mark = " (!)" if each in self.overstated or each in self.understated else ""
            row = (_title(each), each.verdict, self.profile_value(each) + mark, each.reason)
            table.add_row(*map(Text, row))
        counts = {
            word: sum(each.verdict == word for each in self.results)
            for word in ("confirmed", "unsupported", "unconfirmed")
        }
        table.caption = ", ".join(f"{count} {word}" for word, count in counts.items())
        return table

    def disagreements(self) -> list[str]:
        """The contradictions with the profile, one line each."""
        return [
            *(f"{_title(each)}: the profile claims it, but it is unsupported" for each in self.overstated),
            *(f"{_title(each)}: the profile rules it out, but it works" for each in self.understated),
        ]


def _title(result: ProbeResult) -> str:
    if result.computed:
        return f"{result.name} itself"
    return result.name if result.op else result.name.replace("_", " ")


def _is_of_onnx(op: str) -> bool:
    return "." not in op  # others are prefixed with their domain
