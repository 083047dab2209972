"""Blocks of a network: stretches of its graph that one value enters and one leaves, skip connections aside."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx

from depth_distill.quantization.graph.node_kinds import Operation, classify

_SPAN = 16  # layers that a residual connection may pass: a block that was split into four parts has nine

Block = tuple[fx.Node, ...]
"""Consecutive nodes of a graph, in its order."""

_Kinds = dict[fx.Node, Operation]
_Shapes = dict[fx.Node, tuple[int, ...]]


def find_blocks(graph_module: fx.GraphModule, image: Tensor, max_layers: int = 4) -> tuple[Block, ...]:
    """Divide a graph, in its order, into blocks of a few layers.

    The graph is cut where later nodes read only the newest value: behind a residual block, or a layer of a chain. A
    value that is read behind a return from a coarser resolution, or more than 16 layers on, is a skip connection
    there, which a cut lets pass. A stretch without layers joins the one before it if it keeps the shape, as an
    activation does, otherwise the one behind it, as upsampling and concat do. Then neighbours are joined, so that the
    fewest numbers pass where cuts are left, to blocks of at most ``max_layers`` layers; a stretch that cannot be cut
    may have more.

    Nothing depends on this being how an architect would divide it: a block reads whatever values it needs.

    Args:
        graph_module: a float network without batch norm.
        image: an image ``(B, 3, H, W)``, for the shapes.
        max_layers: most layers of a block that is joined of several.

    Returns:
        The blocks; placeholders, constants and the output are in none.

    Raises:
        ConfigError: see :func:`~depth_distill.quantization.graph.node_kinds.classify`.
    """
    kinds = classify(graph_module)
    run = _Recorder(graph_module)
    with torch.no_grad():
        run.run(image)
    pieces = _cut(kinds, run.shapes)
    return tuple(_joined(_with_layers(pieces, kinds, run.shapes), kinds, run.shapes, max_layers))


def values_read(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """The values from outside that some nodes read, in order of first use."""
    inside = set(nodes)
    return list(dict.fromkeys(each for node in nodes for each in node.all_input_nodes if each not in inside))


def values_returned(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Those of some nodes whose values are read outside."""
    inside = set(nodes)
    return [node for node in nodes if any(user not in inside for user in node.users)]


class _Recorder(fx.Interpreter):
    """Notes the shape of every tensor."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.shapes: _Shapes = {}

    def run_node(self, n: fx.Node) -> object:
        """Run and note."""
        value: object = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        return value


def _cut(kinds: _Kinds, shapes: _Shapes) -> list[Block]:
    nodes = list(kinds)
    place = {node: index for index, node in enumerate(nodes)}
    pieces: list[list[fx.Node]] = [[]]
    until = 0  # place of the last node that reads a value older than the newest
    held: dict[fx.Node, int] = {}
    for node in nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        until = max([until, *held.values()])
        near = [place[user] for user in node.users if not _is_skip(nodes[place[node] : place[user] + 1], kinds, shapes)]
        held = {} if kinds[node].kind == "not_a_tensor" else {node: max(near, default=0)}
        pieces[-1].append(node)
        if until <= place[node] and node in shapes:
            pieces.append([])
    return [tuple(piece) for piece in pieces if piece]


def _is_skip(between: Sequence[fx.Node], kinds: _Kinds, shapes: _Shapes) -> bool:
    """Whether a value skips what lies between the node that returns it and one that reads it, both included."""
    passed = between[1:-1]
    reached = _positions(shapes.get(between[-1], ()))
    coarser = any(1 < _positions(shapes.get(node, ())) < reached for node in passed)
    return coarser or _layers(passed, kinds) > _SPAN


def _positions(shape: tuple[int, ...]) -> int:
    return shape[2] * shape[3] if len(shape) == 4 else 1


def _layers(nodes: Iterable[fx.Node], kinds: _Kinds) -> int:
    return sum(kinds[node].kind == "layer" for node in nodes)


def _with_layers(pieces: Sequence[Block], kinds: _Kinds, shapes: _Shapes) -> list[Block]:
    """The pieces, those without layers joined to a neighbour."""
    joined: list[Block] = []
    carried: Block = ()  # waits for the layer behind it
    for piece in pieces:
        if _layers(piece, kinds):
            joined.append((*carried, *piece))
            carried = ()
        elif joined and not carried and shapes[piece[-1]] == shapes.get(joined[-1][-1]):
            joined[-1] += piece
        else:
            carried += piece
    if carried and joined:
        joined[-1] += carried
    return joined


def _joined(pieces: Sequence[Block], kinds: _Kinds, shapes: _Shapes, max_layers: int) -> list[Block]:
    """The pieces joined so that, over all cuts that are left, the fewest numbers pass (dynamic programming)."""
    best: list[tuple[int, list[Block]]] = [(0, [])]  # of the pieces so far: numbers that pass, blocks
    for end in range(1, len(pieces) + 1):
        block: Block = ()
        choices = []
        for first in reversed(range(end)):
            block = (*pieces[first], *block)
            if first < end - 1 and _layers(block, kinds) > max_layers:
                break
            numbers, before = best[first]
            choices.append((numbers + math.prod(shapes[block[-1]]), [*before, block]))
        best.append(min(choices, key=lambda choice: choice[0]))
    return best[-1][1]
