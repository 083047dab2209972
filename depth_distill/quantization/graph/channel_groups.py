"""Which channels of a network can be rescaled together without changing what it computes."""

import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import argument, operation_name, upper_bound

PINNED = 0
"""The group of all channels whose scale is 1."""

# Operators by the name of their class, function or method, lower case and without underscores.
# f(s x) = s f(x) for s > 0, channel by channel.
_HOMOGENEOUS = {
    "identity", "dropout", "dropout2d", "relu", "leakyrelu", "prelu", "contiguous", "clone", "detach", "to", "float",
    "neg", "maxpool2d", "avgpool2d", "adaptiveavgpool2d", "adaptivemaxpool2d", "upsample", "upsamplingnearest2d",
    "upsamplingbilinear2d", "interpolate", "zeropad2d", "reflectionpad2d", "replicationpad2d",
}  # fmt: skip
# As many channels out as in, but not homogeneous.
_NOT_HOMOGENEOUS = {
    "elu", "selu", "celu", "silu", "gelu", "mish", "softplus", "sigmoid", "hardsigmoid", "hardswish", "tanh", "relu6",
    "hardtanh", "clamp", "clip", "exp", "sqrt", "pow",
}  # fmt: skip
_SUMS = {"add", "iadd", "sub", "isub"}
_PRODUCTS = {"mul", "imul"}
_QUOTIENTS = {"truediv", "itruediv", "div"}
_CONCATS = {"cat", "concat"}
_SPLITS = {"chunk", "split"}
_SHAPES = {"shape", "size", "dim", "ndim", "numel", "device", "dtype"}
_SPATIAL = {2, 3, -1, -2}


@dataclass(frozen=True)
class LayerChannels:
    """Group of each channel that a convolution reads and writes, ``(in_channels,)`` and ``(out_channels,)`` int64."""

    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class ChannelGroups:
    """A partition of all channels of a network: one positive scale per group changes nothing but rounding.

    Attributes:
        count: number of groups; group ``PINNED`` keeps scale 1.
        layers: groups of each convolution's channels, by module name.
        activations: group of each channel by node name, ``(C,)``; only nodes with known channels.
        pinned: reason why output channels of a layer are pinned, by module name; only layers with pinned channels.
        limits: highest value of each ReLU6 and clip that keeps groups, by node name; empty where these pin.
    """

    count: int
    layers: dict[str, LayerChannels]
    activations: dict[str, Tensor]
    pinned: dict[str, str]
    limits: dict[str, float] = field(default_factory=dict)

    def with_pinned(self, pinned: Tensor, reason: str) -> "ChannelGroups":
        """The same partition with some groups pinned, ``(count,)`` bool, for a reason."""
        renamed = torch.where(pinned, PINNED, torch.arange(self.count))
        reasons = {
            name: reason for name, each in self.layers.items() if name not in self.pinned and pinned[each.outputs].any()
        }
        return replace(
            self,
            layers={
                name: LayerChannels(renamed[each.inputs], renamed[each.outputs]) for name, each in self.layers.items()
            },
            activations={name: renamed[each] for name, each in self.activations.items()},
            pinned={**self.pinned, **reasons},
        )


def channel_groups(graph_module: fx.GraphModule, bounded: bool = False) -> ChannelGroups:
    """Group the channels of a network: cross-layer equalization (Nagel et al. 2019, section 4.1) on whole graphs.

    A convolution starts one group per output channel. ReLU, leaky ReLU, PReLU, pooling, means over space and
    interpolation keep the groups of their input, and so do parts of a split and ranges of channels. A concat
    concatenates those of its inputs, and an add unites those of its operands. A product keeps the groups of one operand
    if the other is pinned, as a gate after a sigmoid is. Everything else pins its operands: the network's input and
    output, operators that are not positively homogeneous, and unknown operators.

    Args:
        graph_module: a traced network without batch norm.
        bounded: whether ReLU6 and clips from 0 keep groups, too: for channels that stay below the bound they are ReLU,
            as long as the scaled ones stay below it. Such bounds are the ``limits`` of the result.

    Raises:
        ConfigError: a batch norm is not folded.
    """
    grouping = _ChannelGrouping(graph_module, bounded)
    for node in graph_module.graph.nodes:
        grouping.visit(node)
    return grouping.result()


class _ChannelGrouping:
    """Union-find: a convolution makes new channels, each with a parent; channels with the same root are one group."""

    def __init__(self, graph_module: fx.GraphModule, bounded: bool) -> None:
        self.graph_module = graph_module
        self.bounded = bounded
        self.limits: dict[str, float] = {}
        self.parents = [PINNED]
        self.reasons: dict[int, str] = {}  # by channel: why its parent is PINNED
        self.channels: dict[fx.Node, list[int] | None] = {}  # None: pinned, and their number is unknown
        self.parts: dict[fx.Node, list[list[int]]] = {}  # of a tensor that is split along its channels
        self.shapes: set[fx.Node] = set()
        self.layers: dict[str, tuple[list[int], list[int]]] = {}
        names: dict[int, list[str]] = {}
        for name, parameter in graph_module.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        self.aliases = {name: same for same in names.values() for name in same if len(same) > 1}

    def visit(self, node: fx.Node) -> None:
        self.channels[node] = self._visit(node)

    def result(self) -> ChannelGroups:
        roots = {PINNED: PINNED}
        for channel in range(len(self.parents)):
            roots.setdefault(self._root(channel), len(roots))

        def groups(channels: Iterable[int]) -> Tensor:
            return torch.tensor([roots[self._root(channel)] for channel in channels], dtype=torch.int64)

        pinned = {}
        for name, (_, outputs) in self.layers.items():
            reasons = [self._reason(channel) for channel in outputs if self._root(channel) == PINNED]
            if reasons:
                pinned[name] = reasons[0]
        return ChannelGroups(
            len(roots),
            {name: LayerChannels(groups(inputs), groups(outputs)) for name, (inputs, outputs) in self.layers.items()},
            {node.name: groups(channels) for node, channels in self.channels.items() if channels},
            pinned,
            self.limits,
        )

    def _visit(self, node: fx.Node) -> list[int] | None:
        if node.op in ("placeholder", "get_attr"):
            return None
        if node.op == "output":
            self._pin([self.channels[source] for source in node.all_input_nodes], "an output of the network")
            return None
        operation = self._operation(node)
        if operation in _SHAPES or (node.all_input_nodes and self.shapes.issuperset(node.all_input_nodes)):
            self.shapes.add(node)
            return None
        sources = [source for source in node.all_input_nodes if source not in self.shapes]
        known = [self.channels[source] for source in sources]
        operands = [argument for argument in node.args if isinstance(argument, fx.Node)]
        if operation in ("conv2d", "convtranspose2d") and node.op == "call_module":
            return self._convolution(node, known[0])
        if operation in _CONCATS and argument(node, 1, "dim", 0) in (1, -3):
            return self._concat(node, [self.channels[source] for source in node.args[0]])  # type: ignore[union-attr, index]
        if operation in _SUMS | _PRODUCTS | _QUOTIENTS and len(operands) == 2:
            first, second = _broadcast(*(self.channels[operand] for operand in operands))
            if operation in _SUMS:
                return self._sum(node, first, second)
            return self._product(node, first, second, operation in _QUOTIENTS)
        if operation in _SPLITS and known[0] and _are_taken_one_by_one(node):
            parts = _split(known[0], operation, node)
            if parts is not None:
                self.parts[node] = parts
                return None
        if operation == "getitem" and operands:
            taken = self._taken(operands[0], node.args[1])
            if taken is not None:
                return taken
        if len(sources) == 1 and self._keeps_groups(operation, node):
            return known[0]
        bound = upper_bound(self.graph_module, node) if self.bounded else None
        if bound is not None and known[0]:
            self.limits[node.name] = bound
            return known[0]
        doubt = "" if operation in _NOT_HOMOGENEOUS else "known to be "
        self._pin(known, f"read by {self._describe(node)}, not {doubt}positively homogeneous")
        if len(sources) == 1 and operation in _NOT_HOMOGENEOUS and known[0] is not None:
            return [PINNED] * len(known[0])
        return None

    def _keeps_groups(self, operation: str, node: fx.Node) -> bool:
        if operation == "mean":
            dims = argument(node, 1, "dim", None)
            dims = dims if isinstance(dims, Sequence) else [dims]
            return _SPATIAL.issuperset(dims) and argument(node, 2, "keepdim", False) is True
        if operation == "pad":
            pad = argument(node, 1, "pad", None)
            return isinstance(pad, Sequence) and len(pad) <= 4 and not argument(node, 3, "value", None)
        if operation in _PRODUCTS:
            return any(isinstance(argument, int | float) for argument in node.args)
        if operation in _QUOTIENTS:
            return len(node.args) > 1 and isinstance(node.args[1], int | float)
        return operation in _HOMOGENEOUS

    def _taken(self, source: fx.Node, index: Any) -> list[int] | None:
        """Channels of a part of a split tensor, or of ranges along its axes; None if they are not known."""
        if source in self.parts:
            return self.parts[source][index]
        channels = self.channels[source]
        is_range = isinstance(index, tuple) and all(isinstance(each, slice) for each in index)
        if not channels or not is_range or index[0] != slice(None):
            return None
        along = index[1] if len(index) > 1 else slice(None)
        bounds = (along.start, along.stop, along.step)
        return channels[along] if all(each is None or isinstance(each, int) for each in bounds) else None

    def _convolution(self, node: fx.Node, known: list[int] | None) -> list[int]:
        name = str(node.target)
        layer = self.graph_module.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        inputs = known or [PINNED] * layer.in_channels
        if name in self.layers:  # called before
            self._unite(inputs, self.layers[name][0], f"{name} is used more than once, once on a pinned tensor")
            return self.layers[name][1]
        outputs = list(range(len(self.parents), len(self.parents) + layer.out_channels))
        self.parents += outputs
        self.layers[name] = (inputs, outputs)
        shared = [alias for alias in self.aliases.get(f"{name}.weight", []) if alias != f"{name}.weight"]
        shared += [alias for alias in self.aliases.get(f"{name}.bias", []) if alias != f"{name}.bias"]
        if shared:
            self._pin([inputs, outputs], f"{name} shares parameters with {', '.join(shared)}")
        return outputs

    def _concat(self, node: fx.Node, known: list[list[int] | None]) -> list[int] | None:
        if None in known:
            self._pin(known, f"{node.name} concatenates it with a tensor of unknown channels")
            return None
        return [channel for channels in known for channel in channels or []]

    def _sum(self, node: fx.Node, first: list[int] | None, second: list[int] | None) -> list[int] | None:
        if first is None or second is None or len(first) != len(second):
            self._pin([first, second], f"{node.name} adds it to a pinned tensor")
            return None
        self._unite(first, second, f"{node.name} adds it to a pinned tensor")
        return first

    def _product(
        self, node: fx.Node, first: list[int] | None, second: list[int] | None, is_quotient: bool
    ) -> list[int] | None:
        if self._is_pinned(first) and not self._is_pinned(second) and not is_quotient:
            first, second = second, first
        if not self._is_pinned(second):
            self._pin([second], f"{node.name} multiplies it by a tensor that is not pinned")
        if second is None and first is not None and len(first) == 1:
            self._pin([first], f"{node.name} multiplies it by a tensor of unknown channels")
            return None
        return first

    def _operation(self, node: fx.Node) -> str:
        if node.op == "call_module":
            module = self.graph_module.get_submodule(str(node.target))
            if isinstance(module, _BatchNorm):
                raise ConfigError(f"{node.target} is a {type(module).__name__}: fold batch norm before rescaling")
        return operation_name(self.graph_module, node)

    def _describe(self, node: fx.Node) -> str:
        if node.op == "output":
            return "the caller (it is an output)"
        if node.op == "call_module":
            return f"{node.target} ({type(self.graph_module.get_submodule(str(node.target))).__name__})"
        return node.name

    def _root(self, channel: int) -> int:
        while self.parents[channel] != channel:
            channel = self.parents[channel]
        return channel

    def _reason(self, channel: int) -> str:
        while self.parents[channel] != PINNED:
            channel = self.parents[channel]
        return self.reasons[channel]

    def _is_pinned(self, channels: list[int] | None) -> bool:
        return channels is None or all(self._root(channel) == PINNED for channel in channels)

    def _unite(self, first: list[int], second: list[int], reason: str) -> None:
        """Unite channels pairwise; ``reason`` is why one is pinned if the other is."""
        for pair in zip(first, second, strict=True):
            low, high = sorted(map(self._root, pair))
            if low != high:
                self.parents[high] = low  # PINNED is the lowest
                if low == PINNED:
                    self.reasons[high] = reason

    def _pin(self, known: Iterable[list[int] | None], reason: str) -> None:
        for channels in known:
            if channels:
                self._unite(channels, [PINNED] * len(channels), reason)


def _are_taken_one_by_one(node: fx.Node) -> bool:
    """Whether every reader takes one of the tensors of a list."""
    return all(user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users)


def _split(channels: list[int], operation: str, node: fx.Node) -> list[list[int]] | None:
    """The channels of each part; None if it is not channels that are split, or sizes are computed."""
    size = argument(node, 1, "chunks" if operation == "chunk" else "split_size_or_sections", None)
    size = node.kwargs.get("split_size", size)  # as the method calls it
    if argument(node, 2, "dim", 0) not in (1, -3):
        return None
    if isinstance(size, Sequence) and all(isinstance(each, int) for each in size):
        ends = list(itertools.accumulate(size))
        return [channels[end - each : end] for end, each in zip(ends, size, strict=True)]
    if not isinstance(size, int):
        return None
    step = -(-len(channels) // size) if operation == "chunk" else size
    return [channels[start : start + step] for start in range(0, len(channels), step)]


def _broadcast(first: list[int] | None, second: list[int] | None) -> tuple[list[int] | None, list[int] | None]:
    """Repeat a single channel to match the other operand."""
    if first is not None and second is not None:
        if len(first) == 1:
            first = first * len(second)
        elif len(second) == 1:
            second = second * len(first)
    return first, second
