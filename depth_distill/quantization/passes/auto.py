"""A place in a recipe for passes that are chosen by trying, on images."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NoReturn

from torch import fx

from depth_distill.errors import ConfigError
from depth_distill.quantization.passes.base import Context, Pass, PassResult

Effort = Literal["fast", "full"]
"""``fast`` takes seconds to a minute; ``full`` also tries rounding reconstruction, which takes minutes."""


@dataclass(frozen=True)
class Auto(Pass):
    """Stands for the passes that :mod:`~depth_distill.quantization.recipe_search` finds best for one network.

    It is never run: what has images replaces it by the passes that were chosen, and records these. What has none
    refuses it.

    Args:
        effort: how much is tried, ``fast`` or ``full``.
    """

    name: ClassVar[str] = "auto"
    changes_function: ClassVar[bool] = True
    for_int8: ClassVar[bool] = True

    effort: Effort = "fast"

    def requires(self, graph: fx.GraphModule, context: Context) -> NoReturn:
        """Refuse: the passes are not chosen yet.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "auto stands for passes that are chosen by trying them on calibration images, which export, harden and "
            "depth_distill.prepare do; name the passes here, such as those that one of them has chosen"
        )

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Refuse, see :meth:`requires`."""
        self.requires(graph, context)
