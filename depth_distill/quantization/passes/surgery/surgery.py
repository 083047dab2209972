"""What the passes of this room have in common: conditions, and a report of what was replaced and what was left."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich.table import Table
from torch import fx
from torch.nn.modules.batchnorm import _BatchNorm

from depth_distill.errors import ConfigError
from depth_distill.quantization.passes.base import Context, Pass, PassReport

_LISTED = 3  # names in a summary; the table has all


@dataclass(frozen=True)
class Surgery(Pass):
    """A pass that replaces operators by others, behind ``fold`` and before anything that rescales or rounds."""

    changes_function: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a network whose batch norm is not folded."""
        for name, module in graph.named_modules():
            if isinstance(module, _BatchNorm):
                raise ConfigError(f"{name} is a {type(module).__name__}: put fold first")


@dataclass(frozen=True)
class Changes:
    """What a surgery did.

    Attributes:
        done: what became of each place that was changed, by the name of its layer or function.
        left: why a place that could have been meant was left, by name.
    """

    done: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    def report(self, what: str, **values: Any) -> PassReport:
        """The report of a pass.

        Args:
            what: what was replaced by what, as it stands behind a count: ``activations became ReLU``.
            values: more numbers for the record.
        """
        summary = f"{len(self.done)} {what}" if self.done else "nothing to replace"
        if self.left:
            some = [f"{name} ({reason})" for name, reason in list(self.left.items())[:_LISTED]]
            more = len(self.left) - len(some)
            summary += f"; {len(self.left)} left: {', '.join(some)}" + (f" and {more} more" if more else "")
        record = {"replaced": dict(self.done), "left": dict(self.left), **values}
        return PassReport(summary, record, self._table(summary))

    def _table(self, summary: str) -> Table | None:
        if not self.done and not self.left:
            return None
        table = Table("place", "became", title=summary, title_justify="left")
        for name, result in self.done.items():
            table.add_row(name, result)
        for name, reason in self.left.items():
            table.add_row(name, f"left: {reason}")
        return table
