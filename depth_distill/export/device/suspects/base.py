"""What a suspect is: a known fault, the ways in which it would show, and its cure."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from depth_distill.export.device.case import Codes
from depth_distill.export.device.evidence import Evidence

Kind = Literal["curve", "codes", "place", "input", "inside"]
"""Where a fault lies, and what undoes it.

``curve``: what the output's last operators compute; a decode table undoes what can be undone. ``codes``: how codes are
read; ``place``: which pixel is which; both are undone on the host. ``input``: what the device was fed. ``inside``: what
layers within the network compute.
"""


@dataclass(frozen=True)
class Trial:
    """One way in which a suspect would show.

    Attributes:
        detail: which way, in words.
        pair: for the place of an image in the evidence, two codes ``(C, H, W)`` that are equal if this is what
            happened: what the device returned, with what was done to it on its way undone, and what the float network
            would return were the fault in it.
    """

    detail: str
    pair: Callable[[int], tuple[Codes, Codes]]


@dataclass(frozen=True)
class Suspect(ABC):
    """A known fault.

    Attributes:
        name: in files.
        title: a sentence on what the device does, without its end.
        kind: where the fault lies.
        cure: what to do about it.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    title: ClassVar[str]
    cure: ClassVar[str]

    @property
    def key(self) -> str:
        """Its name, with what is particular to this one."""
        return self.name

    @abstractmethod
    def trials(self, evidence: Evidence) -> Iterator[Trial]:
        """The ways in which it would show; none where it cannot be."""
