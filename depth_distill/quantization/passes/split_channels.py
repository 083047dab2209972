"""Share out the channels of a layer among several layers, so that channels of like range share one scale."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from rich.table import Table
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.channel_chains import ChannelChain, channel_chains
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.passes.channel_parts import Spread, share_out
from depth_distill.quantization.passes.rescale import as_matrix
from depth_distill.quantization.passes.surgery.edits import finish, free_name

_Conv = nn.Conv2d | nn.ConvTranspose2d


@dataclass(frozen=True)
class Split:
    """What became of one chain.

    Attributes:
        layers: paths of its convolutions.
        sizes: number of channels of each part.
        gain: noise of the weights before over after, the largest of its layers.
    """

    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    gain: float


@dataclass(frozen=True)
class SplitChannels(Pass):
    """Share out channels among layers with a scale each, see :func:`split_channels`.

    Args:
        parts: largest number of layers that one layer becomes.
        min_gain: a chain is split if the noise of the weights of one of its layers falls by this factor.
        multiple: channels of a part are a multiple of this, for NPUs that compute channels in blocks.
    """

    name: ClassVar[str] = "split_channels"
    for_int8: ClassVar[bool] = True

    parts: int = 4
    min_gain: float = 2.0
    multiple: int = 8

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse numbers that split nothing, and a network that is prepared without images."""
        for key, lowest in (("parts", 2), ("min_gain", 1)):
            if getattr(self, key) < lowest:
                raise ConfigError(f"{key}: received {getattr(self, key)}, expected {lowest} or more")
        if not context.images:
            raise ConfigError("split_channels needs calibration images: it belongs to the export, not to training")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Measure channels on the calibration images and run :func:`split_channels`."""
        if context.target.weights.granularity == "per_channel":
            report = PassReport("nothing to split: scales are per channel", {"split": {}, "left": {}})
            return PassResult(copy.deepcopy(graph), report)
        power = channel_powers(graph, context.batches)
        changed, splits, left = split_channels(graph, power, self.parts, self.min_gain, self.multiple)
        layers = sum(len(each.layers) for each in splits)
        summary = f"{layers} layers became {sum(len(each.layers) * len(each.sizes) for each in splits)}"
        values = {"split": {each.layers[0]: list(each.sizes) for each in splits}, "left": dict(left)}
        return PassResult(changed, PassReport(summary if splits else "nothing to split", values, _table(splits)))


def split_channels(
    graph_module: fx.GraphModule,
    powers: Mapping[str, Tensor],
    parts: int = 4,
    min_gain: float = 2.0,
    multiple: int = 8,
) -> tuple[fx.GraphModule, tuple[Split, ...], dict[str, str]]:
    """A copy in which channels of unlike range are computed by several layers, each with a scale of its own.

    One scale per tensor suits no channel whose weights are far smaller than the largest. A chain (an expansion, its
    activation and its depthwise convolution, see
    :func:`~depth_distill.quantization.graph.channel_chains.channel_chains`) becomes up to ``parts`` chains that read
    the same tensor, each with a share of the channels; a concat joins them, and the columns of what reads it are
    permuted along. The function is the same, and so are the number of weights and of multiplications; there are more
    operators, and one concat. It is what scales per channel do, on an NPU that has none.

    Splitting a layer so that a tool chain finds finer scales is the idea of outlier channel splitting (Zhao et al.
    2019), which duplicates channels and halves their weights, and of SplitQuant (Song and Lin 2025), which adds up
    layers with weights of like size. Nothing is duplicated or added up here, because whole channels are shared out.

    Channels are shared out so that the noise that rounding of weights causes in what reads the chain is small: for
    channel o with inputs of power ``E[x^2]`` and a reader with the weights ``V``, it is proportional to
    ``step^2 E[x^2] ||V_o||^2``, with the step of the part.

    Args:
        graph_module: a traced network without batch norm.
        powers: mean square per channel of what each convolution reads, ``(C,)`` by node name of the input.
        parts: largest number of parts.
        min_gain: a chain stays unless the noise of the weights of one of its layers falls by this factor.
        multiple: channels of a part are a multiple of this.

    Returns:
        The network, what was split, and why other dense convolutions were not, by path.
    """
    changed = copy.deepcopy(graph_module)
    chains, left = channel_chains(changed)
    splits: list[Split] = []
    # Before anything is split: a reader of one chain may start the next one.
    for chain, spreads in [(each, _spreads(changed, each, powers)) for each in chains]:
        channels = len(spreads[0].squares)
        shared = share_out(spreads, parts, multiple)
        whole = [torch.arange(channels)]
        gains = [each.noise(whole) / max(each.noise(shared), torch.finfo(torch.float64).tiny) for each in spreads]
        if len(shared) < 2 or max(gains) < min_gain:
            left[chain.name] = "its channels are alike"
            continue
        splits.append(Split(tuple(str(node.target) for node in chain.layers), tuple(map(len, shared)), max(gains)))
        _split(changed, chain, shared)
    return finish(changed), tuple(splits), left


def channel_powers(graph_module: fx.GraphModule, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Mean square per channel of what convolutions read, ``(C,)`` float64 by node name of the input."""
    read = {
        node.all_input_nodes[0].name
        for node in graph_module.graph.nodes
        if node.op == "call_module" and isinstance(graph_module.get_submodule(str(node.target)), _Conv)
    }
    recorder = _PowerRecorder(graph_module, read)
    count = 0
    with torch.no_grad():
        for batch in batches:
            recorder.run(batch)
            count += len(batch)
    return {name: total / count for name, total in recorder.sums.items()}


class _PowerRecorder(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(graph_module)
        self.names = names
        self.sums: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self.names:
            power = value.detach().double().square().mean((2, 3)).sum(0).cpu()
            self.sums[n.name] = self.sums.get(n.name, 0) + power
        return value


def _spreads(graph_module: fx.GraphModule, chain: ChannelChain, powers: Mapping[str, Tensor]) -> list[Spread]:
    """What the scale of each layer of a chain costs, as noise in what reads the chain."""
    counts = sum(
        as_matrix(_conv(graph_module, reader)).double().square().sum((0, 1, 3)).cpu() for reader in chain.readers
    )
    assert isinstance(counts, Tensor)
    spreads: list[Spread] = []
    for node in reversed(chain.layers):
        layer = _conv(graph_module, node)
        matrix = as_matrix(layer).double().abs().cpu()  # (groups, out, in, taps)
        squares = matrix.amax((2, 3)).flatten().square()
        power = powers[node.all_input_nodes[0].name]
        # A depthwise convolution reads its own channel, a dense one all of them.
        inputs = power if layer.groups > 1 else power.sum()
        spreads.insert(0, Spread(squares, counts * inputs * matrix.shape[3]))
        if layer.groups > 1:  # noise in front of it is passed on with the weights of the channel
            counts = counts * matrix.square().sum((2, 3)).flatten()
    return spreads


def _split(graph_module: fx.GraphModule, chain: ChannelChain, parts: Sequence[Tensor]) -> None:
    """Replace a chain by one chain for each part, in place."""
    graph = graph_module.graph
    source, last = chain.nodes[0].all_input_nodes[0], chain.nodes[-1]
    ends = []
    for place, part in enumerate(parts):
        copied = {source: source}
        for node in chain.nodes:
            with graph.inserting_before(last):
                twin = graph.node_copy(node, lambda each, copied=copied: copied[each])  # type: ignore[misc]
            if node.op == "call_module":
                module = copy.deepcopy(graph_module.get_submodule(str(node.target)))
                if node in chain.layers:
                    _keep(cast(_Conv, module), part)
                twin.target = free_name(graph_module, f"{node.target}_{place}")
                graph_module.add_submodule(str(twin.target), module)
            copied[node] = twin
        ends.append(copied[last])
    with graph.inserting_before(last):
        joined = graph.call_function(torch.cat, (ends, 1))
    joined.meta = {key: value for key, value in last.meta.items() if key == "nn_module_stack"}
    last.replace_all_uses_with(joined)
    for node in reversed(chain.nodes):
        graph.erase_node(node)
    order = torch.cat(tuple(parts))
    for reader in chain.readers:
        layer = _conv(graph_module, reader)
        dim = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
        layer.weight = nn.Parameter(layer.weight.detach().index_select(dim, order.to(layer.weight.device)))


def _keep(layer: _Conv, part: Tensor) -> None:
    """Keep some output channels of a convolution; of a depthwise one, the same input channels."""
    dim = 1 if isinstance(layer, nn.ConvTranspose2d) and layer.groups == 1 else 0
    part = part.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(dim, part), layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[part], layer.bias.requires_grad)
    layer.out_channels = len(part)
    if layer.groups > 1:
        layer.in_channels = layer.groups = len(part)


def _conv(graph_module: fx.GraphModule, node: fx.Node) -> _Conv:
    return cast(_Conv, graph_module.get_submodule(str(node.target)))


def _table(splits: Sequence[Split]) -> Table:
    table = Table("layers", "channels", "noise", title="Noise of the weights before / after")
    for each in splits:
        table.add_row(" + ".join(each.layers), " + ".join(map(str, each.sizes)), f"{each.gain:.1f}")
    return table
