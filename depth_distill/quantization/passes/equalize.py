"""Graph-wide cross-layer equalization: channels of equal range, so that one scale per tensor is enough."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from rich.table import Table
from torch import Tensor, fx

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.channel_groups import PINNED, ChannelGroups, channel_groups
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.passes.equalization_scales import find_scales
from depth_distill.quantization.passes.rescale import as_matrix, rescale
from depth_distill.suggestions import did_you_mean

ReLU6 = Literal["pinned", "bounded"]
"""Whether channels in front of a ReLU6 keep their scale, or may be scaled while they stay below 6."""

_MARGIN = 1.25  # a channel may become this much larger than on the calibration images before a ReLU6 cuts it off
_DEAD = 0.01  # share of the bound; a channel that stays below is treated as if it reached it


@dataclass(frozen=True)
class RangeRatios:
    """Range ratios of one convolution: the tensor's max |w| over the geometric mean of its channels' max |w|.

    The best ratio is 1: a per-tensor scale then suits every channel. All-zero channels do not count.
    """

    name: str
    outputs_before: float
    outputs_after: float
    inputs_before: float
    inputs_after: float


@dataclass(frozen=True)
class EqualizationReport:
    """Outcome of :func:`equalize`.

    Attributes:
        layers: range ratios of each convolution, in graph order.
        free_groups: number of channel groups that could be scaled.
        pinned: reason why output channels of a layer kept scale 1, by layer.
        iterations: number of optimizer steps.
        converged: whether the optimizer converged before the maximum number of steps.
    """

    layers: tuple[RangeRatios, ...]
    free_groups: int
    pinned: Mapping[str, str]
    iterations: int
    converged: bool

    @property
    def summary(self) -> str:
        """The outcome in a short phrase."""
        state = "converged" if self.converged else "NOT converged"
        return f"{self.free_groups} free channel groups; {state} after {self.iterations} iterations"

    @property
    def gain(self) -> dict[str, float]:
        """Largest and mean range ratio of the layers, before and after equalization."""
        before = [max(each.outputs_before, each.inputs_before) for each in self.layers]
        after = [max(each.outputs_after, each.inputs_after) for each in self.layers]
        return {
            "worst_before": max(before),
            "worst_after": max(after),
            "mean_before": sum(before) / len(before),
            "mean_after": sum(after) / len(after),
        }

    def table(self) -> Table:
        """One row per layer: range ratios before and after, and the reason why channels are pinned."""
        title = "Range ratio: max |w| of the tensor / geometric mean of its channels"
        table = Table(title=title, caption=self.summary)
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
    """The equalized network and a report."""

    graph_module: fx.GraphModule
    report: EqualizationReport


@dataclass(frozen=True)
class Equalize(Pass):
    """Rescale channels graph-wide so that one scale per tensor is enough, see :func:`equalize`.

    Args:
        max_iterations: maximum number of steps of the optimizer that finds the scales.
        relu6: ``pinned``: the function stays for every image. ``bounded``: channels in front of a ReLU6 that stayed
            below it on the calibration images are scaled as well, so that they still do, up to a margin of 25 %.
    """

    name: ClassVar[str] = "equalize"
    values_only: ClassVar[bool] = True
    for_int8: ClassVar[bool] = True

    max_iterations: int = 500
    relu6: ReLU6 = "pinned"

    def to_dict(self) -> dict[str, Any]:
        """Without ``relu6`` where it is the default: what is recorded before it existed keeps its hash."""
        entry = super().to_dict()
        if self.relu6 == "pinned":
            del entry[self.name]["relu6"]
        return entry

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Measure channel ranges on the calibration images and run :func:`equalize`."""
        bounded = self.relu6 == "bounded"
        if bounded and not context.images:
            raise ConfigError("relu6: bounded needs calibration images, and there are none: leave it out")
        ranges = channel_ranges(graph, context.batches, bounded)
        found = equalize(graph, ranges, self.max_iterations, bounded)
        return PassResult(found.graph_module, PassReport(found.report.summary, found.report.gain, found.report.table()))


def equalize(
    graph_module: fx.GraphModule,
    activation_ranges: Mapping[str, Tensor] | None = None,
    max_iterations: int = 500,
    bounded: bool = False,
) -> Equalization:
    """Rescale the channels of a network so that its weights and activations lose least from per-tensor scales.

    The function of the network stays the same up to float rounding. Cross-layer equalization (Nagel et al. 2019,
    section 4.1) balances pairs of layers in a chain; here the scales of all channel groups are found together,
    including those of residual streams and skip connections. The criterion of
    :func:`~depth_distill.quantization.passes.equalization_scales.find_scales` is convex, so the result does not depend
    on the previous scaling of the channels.

    Args:
        graph_module: a traced network without batch norm.
        activation_ranges: largest magnitude per channel, ``(C,)`` by node name, see :func:`channel_ranges`. Without
            them, only weights and biases are taken into account.
        max_iterations: maximum number of optimizer steps; the report tells whether the optimizer converged.
        bounded: whether a channel in front of a ReLU6, or of a clip from 0 to b, may be scaled. One that reaches
            ``b / 1.25`` in ``activation_ranges`` is pinned; another one, with the maximum m, is scaled by at most
            ``b / (1.25 m)``: below 1.25 m nothing is cut off, so the function is the same for the images that ranges
            were measured on. Another image may differ where a value exceeds ``1.25 m``.

    Raises:
        ConfigError: a batch norm is not folded, ranges belong to a node that does not exist or has other channels, or
            the range of a ReLU6 is missing.
    """
    groups = channel_groups(graph_module, bounded)
    for name, ranges in (activation_ranges or {}).items():
        if name not in groups.activations:
            raise ConfigError(
                f"activation_ranges: no channels of {name!r} are known; {did_you_mean(name, groups.activations)}"
            )
        if ranges.shape != groups.activations[name].shape:
            raise ConfigError(
                f"activation_ranges[{name!r}]: received {ranges.shape}, expected one value per channel, "
                f"{groups.activations[name].shape}"
            )
    groups, limits = _limited(groups, activation_ranges or {})
    found = find_scales(graph_module, groups, activation_ranges or {}, max_iterations, limits)
    equalized = rescale(graph_module, groups, found.scales)
    before, after = _range_ratios(graph_module, groups), _range_ratios(equalized, groups)
    layers = tuple(
        RangeRatios(name, before[name][0], after[name][0], before[name][1], after[name][1]) for name in groups.layers
    )
    report = EqualizationReport(layers, _free(groups), groups.pinned, found.iterations, found.converged)
    return Equalization(equalized, report)


def _limited(groups: ChannelGroups, ranges: Mapping[str, Tensor]) -> tuple[ChannelGroups, Tensor]:
    """The groups without those that a ReLU6 cuts off, and the largest scale of each group."""
    limits = torch.full((groups.count,), torch.inf, dtype=torch.float64)
    for name, bound in groups.limits.items():
        if name not in ranges:
            raise ConfigError(f"activation_ranges: the range of {name!r}, which ends at {bound:g}, is missing")
        allowed = bound / (_MARGIN * ranges[name].double().clamp(min=_DEAD * bound))
        limits.scatter_reduce_(0, groups.activations[name], allowed, "amin")
    return groups.with_pinned(limits <= 1, "reaches the bound of a ReLU6 or clip"), limits.clamp(min=1)


def _free(groups: ChannelGroups) -> int:
    return len({int(group) for each in groups.layers.values() for group in each.outputs.unique()} - {PINNED})


def channel_ranges(graph_module: fx.GraphModule, batches: Iterable[Tensor], bounded: bool = False) -> dict[str, Tensor]:
    """Largest magnitude per channel of the tensors that an NPU rounds, ``(C,)`` by node name.

    These are the inputs of convolutions and of functions (adds, concats). One pass, in constant memory.

    Args:
        graph_module: a traced network without batch norm.
        batches: images ``(B, 3, H, W)`` on the device of the network.
        bounded: whether the outputs of ReLU6 are measured, too, see :func:`equalize`.

    Raises:
        ConfigError: a batch norm is not folded.
    """
    groups = channel_groups(graph_module, bounded)
    read = set(groups.limits) | {
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


def _range_ratios(graph_module: fx.GraphModule, groups: ChannelGroups) -> dict[str, tuple[float, float]]:
    """Range ratios over output and over input channels, by layer."""
    ratios = {}
    for name in groups.layers:
        magnitude = as_matrix(graph_module.get_submodule(name)).double().abs().amax(-1)  # type: ignore[arg-type]
        ratios[name] = (_range_ratio(magnitude.amax(2)), _range_ratio(magnitude.amax(1)))
    return ratios


def _range_ratio(channels: Tensor) -> float:
    live = channels[channels > 0]
    return float(live.max() / live.log().mean().exp()) if len(live) else 1.0
