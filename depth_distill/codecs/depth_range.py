"""The range of depth in metres."""

from dataclasses import dataclass
from typing import Any

from depth_distill.errors import ConfigError


@dataclass(frozen=True)
class DepthRange:
    """The range of depth of a run in metres: codes span it, and metrics are capped to it.

    Raises:
        ConfigError: unless ``0 < min_m < max_m``.
    """

    min_m: float
    max_m: float

    def __post_init__(self) -> None:
        if not 0 < self.min_m < self.max_m:
            raise ConfigError(f"depth range needs 0 < min_m < max_m, got min_m={self.min_m}, max_m={self.max_m}")

    def contains(self, depth_m: Any) -> Any:
        """Bool mask of the depths (array or tensor) in the closed interval; NaN and 0 are outside."""
        return (depth_m >= self.min_m) & (depth_m <= self.max_m)

    def __str__(self) -> str:
        return f"{self.min_m:g}-{self.max_m:g} m"
