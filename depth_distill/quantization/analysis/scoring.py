"""Interface between the analyses and the images and metrics that a caller supplies."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Scorer(Protocol):
    """Batches of images, and metrics of the codes that a network returns for them.

    :class:`depth_distill.evaluation.Evaluator` is one.
    """

    @property
    def images(self) -> Sequence[Tensor]:
        """Batches of normalized images ``(B, 3, H, W)``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics; ``abs_rel`` is one of them."""

    def measure(self, position: int, codes: Tensor) -> Tensor:
        """Metrics per image of the batch at ``position``, ``(B, len(names))`` float64."""

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Metrics of the whole set from those of its images, ``(N, len(names))``."""
