"""Tensors of two to four dimensions as images: how each is held as ``(B, C, h, w)``, and which moves become nothing."""

from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import fx

from depth_distill.quantization.passes.surgery.measure import Shape

Layout = Literal["image", "flat", "planes", "tokens", "channels_last"]

_CHANNELS_LAST = ("tokens", "channels_last")
_PERMUTED: dict[tuple[Layout, tuple[int, ...]], Layout] = {
    ("image", (0, 2, 3, 1)): "channels_last",
    ("channels_last", (0, 3, 1, 2)): "image",
    ("planes", (0, 2, 1)): "tokens",
    ("tokens", (0, 2, 1)): "planes",
}
_CHANNEL: dict[Layout, int] = {"image": 1, "flat": 1, "planes": 1, "tokens": 2, "channels_last": 3}


@dataclass(frozen=True)
class Held:
    """A tensor of the old graph as an image of the new one.

    Attributes:
        node: the image ``(B, C, h, w)``.
        layout: what the tensor is: the ``image`` itself, ``flat`` ``(B, C h w)``, ``planes`` ``(B, C, h w)``,
            ``tokens`` ``(B, h w, C)`` or ``channels_last`` ``(B, h, w, C)``.
        size: (C, h, w).
    """

    node: fx.Node
    layout: Layout
    size: tuple[int, int, int]

    @property
    def pixels(self) -> int:
        """Number of positions."""
        return self.size[1] * self.size[2]

    @property
    def channel(self) -> int:
        """The dimension of the channels in the tensor."""
        return _CHANNEL[self.layout]

    @property
    def spatial(self) -> set[int]:
        """The dimensions of positions in the tensor."""
        return set(range(1, 1 + len(shape_in(self.layout, self.size)))) - {self.channel}

    def reshaped(self, shape: Shape) -> "Held | None":
        """The same image as a tensor of another shape with the same order of values; None if it is not one."""
        for layout in _CHANNEL:
            last, was_last = layout in _CHANNELS_LAST, self.layout in _CHANNELS_LAST
            same_order = last == was_last or self.pixels == 1 or self.size[0] == 1
            if same_order and shape_in(layout, self.size) == shape[1:]:
                return Held(self.node, layout, self.size)
        return None

    def permuted(self, order: tuple[int, ...]) -> "Held | None":
        """The same image as a tensor with its dimensions in another order; None if it is not one."""
        layout = _PERMUTED.get((self.layout, order))
        return None if layout is None else Held(self.node, layout, self.size)

    def restored(self) -> fx.Node:
        """The tensor itself, from nodes that are added to the graph of the image."""
        graph = self.node.graph
        if self.layout == "image":
            return self.node
        if self.layout == "channels_last":
            return graph.call_method("permute", (self.node, 0, 2, 3, 1))
        flat = graph.call_method("flatten", (self.node, 1 if self.layout == "flat" else 2))
        return graph.call_method("transpose", (flat, 1, 2)) if self.layout == "tokens" else flat


def shape_in(layout: Layout, size: tuple[int, int, int]) -> Shape:
    """Shape of an image (C, h, w) as a tensor of this layout, without the batch."""
    channels, height, width = size
    shapes: dict[Layout, Shape] = {
        "image": size,
        "flat": (prod(size),),
        "planes": (channels, height * width),
        "tokens": (height * width, channels),
        "channels_last": (height, width, channels),
    }
    return shapes[layout]


def broadcast(sizes: list[tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """Size of the sum of images; None where they do not fit."""
    columns = [set(column) - {1} for column in zip(*sizes, strict=True)]
    if any(len(column) > 1 for column in columns):
        return None
    channels, height, width = (max(column, default=1) for column in columns)
    return channels, height, width
