"""Graph-wide cross-layer equalization: channels of equal range, so that one scale a tensor is enough."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.channel_groups import ChannelGroups, channel_groups
from depth_distill.quantization.passes.equalization_scales import balance
from depth_distill.quantization.passes.rescale import as_matrix, rescale
from depth_distill.quantization.target.validated import nearest


@dataclass(frozen=True)
class LayerBalance:
    """Range ratios of one convolution: the tensor's max |w| over the geometric mean of its channels' max |w|.

    1 is best: a per-tensor scale then serves every channel. Channels of zeros do not count.
    """

    name: str
    outputs_before: float
    outputs_after: float
    inputs_before: float
    inputs_after: float


@dataclass(frozen=True)
class EqualizationReport:
    """What :func:`equalize` did.

    Attributes:
        layers: range ratios of each convolution, in graph order.
        free_groups: number of channel groups that could be scaled.
        pinned: why output channels of a layer kept scale 1, by layer.
        replaced: ReLU6 activations that became ReLU: the network computes something else where they saturated.
        iterations: steps of the optimizer.
        converged: whether it stopped by itself.
    """

    layers: tuple[LayerBalance, ...]
    free_groups: int
    pinned: Mapping[str, str]
    replaced: tuple[str, ...]
    iterations: int
    converged: bool

    def table(self) -> Table:
        """One row a layer: range ratios before and after, and why a layer is pinned."""
        state = "converged" if self.converged else "NOT converged"
        table = Table(title="Range ratio: max |w| of the tensor / geometric mean of its channels")
        table.caption = f"{self.free_groups} free channel groups; {state} after {self.iterations} iterations"
        if self.replaced:
            table.caption += f"; {len(self.replaced)} ReLU6 replaced by ReLU: {', '.join(self.replaced)}"
        table.add_column("layer")
        for heading in ("outputs", "equalized", "inputs", "equalized"):
            table.add_column(heading, justify="right")
        table.add_column("why it is pinned")
        for layer in self.layers:
            ratios = (layer.outputs_before, layer.outputs_after, layer.inputs_before, layer.inputs_after)
            table.add_row(layer.name, *(f"{ratio:.2f}" for ratio in ratios), self.pinned.get(layer.name, ""))
        return table


@dataclass(frozen=True)
class Equalization:
    """The equalized network and what was done to get it."""

    graph_module: fx.GraphModule
    report: EqualizationReport


def equalize(
    graph_module: fx.GraphModule,
    activation_ranges: Mapping[str, Tensor] | None = None,
    replace_relu6: bool = False,
    max_iterations: int = 500,
) -> Equalization:
    """Rescale the channels of a network so that its weights, and activations, lose least by per-tensor scales.

    The function stays the same up to float rounding. Cross-layer equalization (Nagel et al. 2019, section 4.1)
    balances pairs of layers in a chain; here the scales of all channel groups are found together, so that residual
    streams and skips take part. See :func:`~depth_distill.quantization.passes.equalization_scales.balance` for the
    criterion: it is convex, so the result does not depend on how the channels were scaled before.

    Args:
        graph_module: a traced network without batch norm.
        activation_ranges: largest magnitude of each channel, ``(C,)`` by node name, see :func:`channel_ranges`.
            Without them biases stand in.
        replace_relu6: replace every ReLU6 by ReLU first. This changes the function where a ReLU6 saturates.
        max_iterations: steps of the optimizer; the report says whether they sufficed.

    Raises:
        ConfigError: a batch norm that was not folded, or ranges of a node that does not exist or has other channels.
    """
    source, replaced = _without_relu6(graph_module) if replace_relu6 else (graph_module, ())
    groups = channel_groups(source)
    for name, ranges in (activation_ranges or {}).items():
        if name not in groups.activations:
            raise ConfigError(
                f"activation_ranges: no channels of {name!r} are known; {nearest(name, groups.activations)}"
            )
        if ranges.shape != groups.activations[name].shape:
            raise ConfigError(
                f"activation_ranges[{name!r}]: received {ranges.shape}, expected one value a channel, "
                f"{groups.activations[name].shape}"
            )
    found = balance(source, groups, activation_ranges or {}, max_iterations)
    equalized = rescale(source, groups, found.scales)
    before, after = _range_ratios(source, groups), _range_ratios(equalized, groups)
    layers = tuple(
        LayerBalance(name, before[name][0], after[name][0], before[name][1], after[name][1]) for name in groups.layers
    )
    report = EqualizationReport(layers, groups.count - 1, groups.pinned, replaced, found.iterations, found.converged)
    return Equalization(equalized, report)


def channel_ranges(graph_module: fx.GraphModule, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Largest magnitude of each channel, ``(C,)`` by node name, of the tensors that an NPU rounds.

    These are the inputs of convolutions and of functions (adds, concats). One pass, in constant memory.

    Args:
        graph_module: a traced network without batch norm.
        batches: images ``(B, 3, H, W)`` on the device of the network.

    Raises:
        ConfigError: a batch norm that was not folded.
    """
    groups = channel_groups(graph_module)
    read = {
        source.name
        for node in graph_module.graph.nodes
        for source in node.all_input_nodes
        if node.op in ("call_function", "call_method") or str(node.target) in groups.layers
    }
    recorder = _RangeRecorder(graph_module, read & set(groups.activations))
    with torch.no_grad():
        for batch in batches:
            recorder.run(batch)
    return recorder.ranges


class _RangeRecorder(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(graph_module)
        self.names = names
        self.ranges: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self.names:
            highest = value.detach().abs().amax((0, 2, 3)).cpu()
            self.ranges[n.name] = torch.maximum(self.ranges.get(n.name, highest), highest)
        return value


def _without_relu6(graph_module: fx.GraphModule) -> tuple[fx.GraphModule, tuple[str, ...]]:
    changed = copy.deepcopy(graph_module)
    replaced = []
    for node in changed.graph.nodes:
        if node.op == "call_function" and node.target is F.relu6:
            node.target = F.relu
            replaced.append(node.name)
        elif node.op == "call_module" and type(changed.get_submodule(str(node.target))) is nn.ReLU6:
            changed.set_submodule(str(node.target), nn.ReLU())
            replaced.append(str(node.target))
    changed.recompile()
    return changed, tuple(replaced)


def _range_ratios(graph_module: fx.GraphModule, groups: ChannelGroups) -> dict[str, tuple[float, float]]:
    """Ratios over output and over input channels."""
    ratios = {}
    for name in groups.layers:
        magnitude = as_matrix(graph_module.get_submodule(name)).double().abs().amax(-1)  # type: ignore[arg-type]
        ratios[name] = (_range_ratio(magnitude.amax(2)), _range_ratio(magnitude.amax(1)))
    return ratios


def _range_ratio(channels: Tensor) -> float:
    live = channels[channels > 0]
    return float(live.max() / live.log().mean().exp()) if len(live) else 1.0
