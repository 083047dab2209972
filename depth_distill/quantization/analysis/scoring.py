"""What an analysis needs to know about images and their score: given from outside, as passes know no data sets."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Scorer(Protocol):
    """Batches of images, and a score for the codes that a network makes of them.

    :class:`depth_distill.evaluation.Evaluator` is one.
    """

    @property
    def images(self) -> Sequence[Tensor]:
        """Batches of normalized images ``(B, 3, H, W)``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics; ``abs_rel`` is one of them."""

    def measure(self, position: int, codes: Tensor) -> Tensor:
        """Metrics of each image of the batch at ``position``, ``(B, len(names))`` float64."""

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Metrics of the whole set, from the rows ``(N, len(names))`` of all its images."""
