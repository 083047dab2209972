"""The metric by which the cost of INT8 can be told: abs_rel where INT8 moves it, else the deviation from FP32."""

from collections.abc import Mapping
from dataclasses import dataclass

_TELLS = 0.02
# Rounding moves depth to and fro, some of it towards the truth: below this share of FP32 differences of abs_rel between
# layers are chance.
_NOTHING = 0.005  # a share of abs_rel that is called nothing

ABS_REL, DRIFT = "abs_rel", "drift_mm"


@dataclass(frozen=True)
class Axis:
    """A metric, and how it is written.

    Attributes:
        metric: ``abs_rel``, or ``drift_mm``, the mean distance from the depth of the float network in mm.
    """

    metric: str

    @property
    def label(self) -> str:
        """For the axis of a chart."""
        return "deviation from FP32 [mm]" if self.metric == DRIFT else self.metric

    def text(self, value: float, sign: bool = False) -> str:
        """A value with its unit."""
        plus = "+" if sign else ""
        return f"{value:{plus}.2f} mm" if self.metric == DRIFT else f"{value:{plus}.4f}"


def telling_axis(exact: Mapping[str, float], integer: Mapping[str, float]) -> Axis:
    """The axis for a network: abs_rel if INT8 costs more than 2 % of it, or if nothing else is measured.

    Args:
        exact: metrics of the float network.
        integer: metrics of the network in INT8.
    """
    tells = abs(integer[ABS_REL] - exact[ABS_REL]) > _TELLS * exact[ABS_REL]
    return Axis(ABS_REL if tells or DRIFT not in exact else DRIFT)


def cost_of_int8(exact: Mapping[str, float], integer: Mapping[str, float]) -> str:
    """What INT8 costs, in words: ``INT8 costs 3.1 % of abs_rel (0.0389, FP32 0.0377)``.

    Args:
        exact: metrics of the float network.
        integer: metrics of the network in INT8.
    """
    before, after = exact[ABS_REL], integer[ABS_REL]
    numbers = f"abs_rel {after:.4f}, FP32 {before:.4f}"
    if DRIFT in integer:
        numbers += f", {integer[DRIFT]:.1f} mm from it"
    if after <= (1 + _NOTHING) * before:
        return f"INT8 costs nothing in abs_rel ({numbers})"
    return f"INT8 costs {100 * (after / before - 1):.1f} % of abs_rel ({numbers})" if before else f"INT8: {numbers}"
