"""Split convolutions with a large kernel into sums of convolutions with smaller ones."""

import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.passes.base import Context, PassResult
from depth_distill.quantization.passes.surgery.edits import finish, free_name, insert_module, pair
from depth_distill.quantization.passes.surgery.surgery import Changes, Surgery


@dataclass(frozen=True)
class SplitKernels(Surgery):
    """Split large kernels, see :func:`split_kernels`.

    Args:
        max_window: largest height and width of a kernel; what the target takes unless given.
    """

    name: ClassVar[str] = "split_kernels"
    changes_function: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False

    max_window: int | None = None

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a pass without a limit."""
        super().requires(graph, context)
        if self._window(context) is None:
            raise ConfigError(f"{context.target.name} has no largest window: give max_window")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`split_kernels`."""
        window = self._window(context)
        assert window is not None
        changed, changes = split_kernels(graph, window)
        return PassResult(changed, changes.report(f"convolutions became sums with windows of at most {window}"))

    def _window(self, context: Context) -> int | None:
        return self.max_window or context.target.operators.limits_of("Conv")[1].max_window


def split_kernels(graph_module: fx.GraphModule, max_window: int) -> tuple[fx.GraphModule, Changes]:
    """A copy in which no window of a convolution is larger, and what became of each larger one.

    A kernel is cut into tiles ``<name>_0``, ``<name>_1``, ..., each a convolution that pads or crops the input so that
    it reads what its weights read before; their outputs are added. That is exact but for the order in which numbers are
    added. Where possible, tiles overlap, with zeros in one of them, so that no tile has to crop its input. The sum goes
    through an ``nn.Identity`` of the old name, so that hooks by name still work.

    Args:
        graph_module: a traced network without batch norm.
        max_window: largest height and width of a kernel.
    """
    changed = copy.deepcopy(graph_module)
    done: dict[str, str] = {}
    left: dict[str, str] = {}
    for name, calls in calls_by_module(changed).items():
        layer = changed.get_submodule(name)
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or max(layer.kernel_size) <= max_window:
            continue
        if type(layer) is not nn.Conv2d:
            left[name] = f"it is a {type(layer).__name__}"
        elif layer.padding_mode != "zeros":
            left[name] = f"it pads by {layer.padding_mode}: put zero_padding before"
        else:
            cut = enumerate(_tiles(layer, max_window))
            tiles = [(free_name(changed, f"{name}_{place}"), tile) for place, tile in cut]
            for call in calls:
                _sum_of_tiles(changed, call, tiles)
            changed.set_submodule(name, nn.Identity())
            size = " x ".join(map(str, layer.kernel_size))
            done[name] = f"{size} became {len(tiles)} convolutions, {_window_of(tiles[0][1].layer)} and smaller"
    return finish(changed), Changes(done, left)


@dataclass(frozen=True)
class _Tile:
    """A part of a convolution, and what it pads with (left, right, top, bottom); None where it pads by itself."""

    layer: nn.Conv2d
    padding: tuple[int, int, int, int] | None


def _window_of(layer: nn.Conv2d) -> str:
    return " x ".join(map(str, layer.kernel_size))


def _tiles(layer: nn.Conv2d, max_window: int) -> Iterator[_Tile]:
    sides = [_sides(layer, axis) for axis in (0, 1)]
    dilations = pair(layer.dilation)
    cuts = [
        _cuts(size, max_window, min(side) // dilation)
        for size, side, dilation in zip(layer.kernel_size, sides, dilations, strict=True)
    ]
    weight, bias = layer.weight.detach(), layer.bias
    seen = weight.new_zeros(weight.shape[2:])  # taps of an overlap belong to the first tile
    for (top, height), (left, width) in product(*cuts):
        place = (slice(top, top + height), slice(left, left + width))
        own = (weight * (1 - seen))[:, :, place[0], place[1]]
        seen[place] = 1
        rows = _beyond(sides[0], layer.kernel_size[0], top, height, dilations[0])
        columns = _beyond(sides[1], layer.kernel_size[1], left, width, dilations[1])
        symmetric = rows[0] == rows[1] >= 0 and columns[0] == columns[1] >= 0
        tile = _tile(layer, own, bias, (rows[0], columns[0]) if symmetric else (0, 0))
        yield _Tile(tile, None if symmetric else (*columns, *rows))
        bias = None


def _tile(layer: nn.Conv2d, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> nn.Conv2d:
    size = (weight.shape[2], weight.shape[3])
    stride, dilation = pair(layer.stride), pair(layer.dilation)
    tile = nn.Conv2d(
        layer.in_channels, layer.out_channels, size, stride, padding, dilation, layer.groups, bias is not None
    )
    trainable = layer.weight.requires_grad
    tile.weight = nn.Parameter(weight.clone(), trainable)
    if bias is not None:
        tile.bias = nn.Parameter(bias.detach().clone(), trainable)
    return tile.train(layer.training)


def _sides(layer: nn.Conv2d, axis: int) -> tuple[int, int]:
    """How many zeros a convolution adds before and behind its input along an axis."""
    if isinstance(layer.padding, str):
        total = pair(layer.dilation)[axis] * (layer.kernel_size[axis] - 1) if layer.padding == "same" else 0
        return total // 2, total - total // 2
    return (pair(layer.padding)[axis],) * 2


def _beyond(sides: tuple[int, int], size: int, start: int, length: int, dilation: int) -> tuple[int, int]:
    """The zeros before and behind the input that the taps ``start`` to ``start + length`` read; negative to crop."""
    return sides[0] - start * dilation, sides[1] - (size - start - length) * dilation


def _cuts(size: int, limit: int, margin: int) -> list[tuple[int, int]]:
    """(start, length) of the tiles of a kernel, as even as possible.

    Args:
        size: size of the kernel.
        limit: largest size of a tile.
        margin: how many taps may be cut off on either side without cropping the input.
    """
    count = -(-size // limit)
    length = -(-size // count)
    if count == 2 and length < size - margin <= limit:
        length = size - margin  # two tiles that overlap, each within the padded input
    starts = [round(place * (size - length) / max(1, count - 1)) for place in range(count)]
    return [(start, length) for start in starts]


def _sum_of_tiles(graph_module: fx.GraphModule, call: fx.Node, tiles: list[tuple[str, _Tile]]) -> None:
    """Let a call of a convolution be the identity of the sum of its tiles."""
    source = call.all_input_nodes[0]
    total: fx.Node | None = None
    for name, tile in tiles:
        read = source
        if tile.padding is not None:
            read = insert_module(graph_module, f"{name}_pad", nn.ZeroPad2d(tile.padding), source, call)
        part = insert_module(graph_module, name, tile.layer, read, call)
        if total is not None:
            with call.graph.inserting_before(call):
                part = call.graph.call_function(operator.add, (total, part))
            part.meta = copy.copy(call.meta)
        total = part
    assert total is not None
    call.replace_input_with(source, total)
