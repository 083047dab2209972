"""What a diagnosis is made of: codes of the device and of the float network for the same images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import fx

from depth_distill.data.network_inputs import spaced
from depth_distill.errors import UserError
from depth_distill.export.device.case import Case, Codes, Outputs
from depth_distill.quantization.graph.trace import trace

PROBED = 12
"""Images that hypotheses are tried on: each may be a run of the float network."""
_MOST_NUMBERS = 16_000_000  # of codes that are held; of more images evenly spaced ones are taken


@dataclass(frozen=True)
class Evidence:
    """Codes of the device and of the float network.

    Attributes:
        case: the network and the images.
        numbers: numbers of the images among those of the case.
        device: codes ``(N, C, H, W)`` of the device; beyond [0, 1] where it returned such.
        expected: codes of the float network.
    """

    case: Case
    numbers: tuple[int, ...]
    device: Codes
    expected: Codes

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def probed(self) -> tuple[int, ...]:
        """Places of the images that hypotheses are tried on, evenly spaced."""
        return tuple(evenly(range(len(self)), PROBED))

    @cached_property
    def graph(self) -> fx.GraphModule | None:
        """The float network as a graph; None if it cannot be traced."""
        try:
            height, width = self.case.source.shape[-2:]
            return trace(self.case.source.network, image_size=(height, width))
        except (UserError, ValueError):
            return None


def collect(
    case: Case,
    outputs: Outputs | None = None,
    numbers: Sequence[int] | None = None,
    on_image: Callable[[int, int], object] = lambda done, of: None,
) -> Evidence:
    """Run the float network, and read what the device returned.

    Args:
        case: the network and the images.
        outputs: what the device returned; the files of the case unless given.
        numbers: images to look at; all unless given.
        on_image: called with how many images are done, and how many there are.

    Raises:
        ConfigError: the network returns no codes.
        DataError: an image or output cannot be used.
    """
    wanted = list(range(len(case)) if numbers is None else numbers)
    first = case.float_codes(wanted[0])
    wanted = evenly(wanted, max(2, _MOST_NUMBERS // first.size))
    device, expected = [], []
    for done, index in enumerate(wanted, 1):
        expected.append(first if done == 1 else case.float_codes(index))
        device.append(case.device_codes(index, outputs))
        on_image(done, len(wanted))
    return Evidence(case, tuple(wanted), np.stack(device), np.stack(expected))


def evenly(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, evenly spaced."""
    return [values[place] for place in spaced(len(values), most)]
