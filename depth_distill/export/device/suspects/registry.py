"""All suspects, in the order in which they are tried: of two that explain the same, the first is named."""

from depth_distill.export.device.suspects.base import Suspect
from depth_distill.export.device.suspects.curves import (
    SIGMOID,
    PowerOfTwoRead,
    PowerOfTwoScale,
    SigmoidBy,
    SigmoidLeftOut,
    SigmoidTwice,
    SignedRead,
)
from depth_distill.export.device.suspects.inputs import (
    Colours,
    DoubledNormalization,
    MissingNormalization,
    OtherNormalization,
    OtherResize,
)
from depth_distill.export.device.suspects.inside import ActivationBy, ZeroPadding
from depth_distill.export.device.suspects.places import CodesReversed, Flipped, OtherOrder, Transposed
from depth_distill.quantization.graph.substitutions import SUBSTITUTIONS

# A new suspect is a small dataclass beside those of its kind, and a line here.
SUSPECTS: tuple[Suspect, ...] = (
    SignedRead(),
    PowerOfTwoRead(),
    SigmoidLeftOut(),
    SigmoidTwice(),
    *(SigmoidBy(by) for by in SUBSTITUTIONS[SIGMOID]),
    PowerOfTwoScale(),
    Transposed(),
    CodesReversed(),
    Flipped((2,)),
    Flipped((1,)),
    Flipped((1, 2)),
    OtherOrder(),
    Colours(),
    MissingNormalization(),
    DoubledNormalization(),
    OtherNormalization(),
    OtherResize(),
    ZeroPadding(),
    *(ActivationBy(operator) for operator in SUBSTITUTIONS),
)
"""The known faults."""
