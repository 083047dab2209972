"""Twice the bits for chosen weights on an NPU that has only INT8: a layer and the rest that its rounding leaves."""

import copy
import fnmatch
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import is_not
from typing import ClassVar, cast

import torch
from rich.table import Table
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import Operation, classify, upper_bound
from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.passes.surgery.edits import called_once, finish, free_name
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.target.target import NpuTarget, TensorFormat
from depth_distill.suggestions import did_you_mean

_Layer = nn.Conv2d | nn.ConvTranspose2d
_MARGIN = 1.25  # the rest of an image may be this much larger than on the calibration images before a clip changes it


@dataclass(frozen=True)
class SplitWeights(Pass):
    """Compute chosen layers as two with a scale each, see :func:`split_weights`.

    Args:
        below_db: layers whose output has a lower SQNR when only their weights are rounded are chosen.
        layers: names or patterns of layers to choose instead, such as ``encoder.*.conv_dw``.
    """

    name: ClassVar[str] = "split_weights"
    for_int8: ClassVar[bool] = True

    below_db: float = 25.0
    layers: tuple[str, ...] = ()

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a target on which nothing is gained, and a network that is prepared without images."""
        if "clip" not in context.target.fused_activations:
            raise ConfigError(
                f"split_weights needs clips that are fused into layers, and {context.target.name} has none: the sum "
                "would be rounded with the range of what the activation cuts off"
            )
        if not context.target.weights.symmetric:
            raise ConfigError(f"split_weights needs symmetric weights, and those of {context.target.name} are not")
        if not context.images:
            raise ConfigError("split_weights needs calibration images: it belongs to the export, not to training")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Choose layers on the calibration images and run :func:`split_weights`."""
        measured = measure_rests(graph, context.target, context.batches)
        chosen = [name for name, each in measured.items() if each.sqnr_db < self.below_db]
        for pattern in self.layers:
            if not fnmatch.filter(measured, pattern):
                raise ConfigError(f"layers: no convolution is called {pattern!r}; {did_you_mean(pattern, measured)}")
        if self.layers:
            chosen = [name for name in measured if any(fnmatch.fnmatch(name, each) for each in self.layers)]
        changed = split_weights(graph, context.target, {name: measured[name].largest for name in chosen})
        share = sum(measured[name].macs for name in chosen) / max(1, sum(each.macs for each in measured.values()))
        summary = f"{len(chosen)} layers computed twice, {100 * share:.1f} % more multiplications in convolutions"
        values = {"split": {name: measured[name].sqnr_db for name in chosen}, "more_macs": share}
        return PassResult(changed, PassReport(summary, values, _table({name: measured[name] for name in chosen})))


@dataclass(frozen=True)
class Rest:
    """What rounding leaves of the weight of a layer, as seen in the layer's output on calibration images.

    Attributes:
        sqnr_db: power of the output over power of the rest.
        largest: largest magnitude of the rest.
        macs: multiplications of the layer for one image.
    """

    sqnr_db: float
    largest: float
    macs: int


def split_weights(graph_module: fx.GraphModule, target: NpuTarget, largest: Mapping[str, float]) -> fx.GraphModule:
    """A copy in which chosen layers are the sum of two: ``W1``, on the grid of the weight, and ``W2``, the rest.

    A tool chain that rounds ``W1`` with ``max |W1| / 127`` finds every weight on its grid, and the scale of ``W2`` is
    254 times finer: together the weight has about 16 bits, at twice the multiplications of this layer. Residual
    decompositions of this kind are known from binary weights (Guo et al. 2017, "Network sketching").

    What is added is rounded to 8 bits first. So that the range of what is then cut off by a ReLU is not rounded along,
    the first layer is clipped to what can still matter: from ``-e`` to the bound of the activation plus ``e``, where e
    is 1.25 times the largest rest on the calibration images. The sum behind the activation is the same as before
    wherever the rest is at most e. An activation that is no ReLU, ReLU6 or clip, or is behind something else, is left
    as it is, without such a clip.

    Args:
        graph_module: a traced network without batch norm.
        target: NPU, for the format of weights.
        largest: largest magnitude of the rest by path of each layer to split, from :func:`measure_rests`.
    """
    changed = copy.deepcopy(graph_module)
    operations = classify(changed)
    calls = calls_by_module(changed)
    for name, largest_rest in largest.items():
        (node,) = calls[name]
        layer = cast(_Layer, changed.get_submodule(name))
        rest = copy.deepcopy(layer)
        first = _on_grid(layer, target.weights)
        rest.weight = nn.Parameter(layer.weight.detach() - first)
        rest.bias = None
        layer.weight = nn.Parameter(first)
        rest_name = free_name(changed, f"{name}_rest")
        changed.add_submodule(rest_name, rest)
        behind = list(node.users)
        with changed.graph.inserting_after(node):
            rest_node = changed.graph.call_module(rest_name, node.args)
        with changed.graph.inserting_after(rest_node):
            total = changed.graph.call_function(operator.add, (node, rest_node))
        total.meta = copy.copy(node.meta)
        node.replace_all_uses_with(total, delete_user_cb=partial(is_not, total))
        bounds = _bounds(changed, behind, operations, _MARGIN * largest_rest)
        if bounds is not None:
            clip_name = free_name(changed, f"{name}_clip")
            changed.add_submodule(clip_name, nn.Hardtanh(*bounds))
            with changed.graph.inserting_after(node):
                clip = changed.graph.call_module(clip_name, (node,))
            total.replace_input_with(node, clip)
    return finish(changed)


def _bounds(
    graph_module: fx.GraphModule, users: Sequence[fx.Node], operations: Mapping[fx.Node, Operation], margin: float
) -> tuple[float, float] | None:
    """What an activation behind a layer does not cut off, and a margin; None where it cuts off nothing from 0 down."""
    activation = operations[users[0]].activation if len(users) == 1 else None
    if activation == "relu":
        return -margin, torch.finfo(torch.float32).max
    high = upper_bound(graph_module, users[0]) if activation is not None else None
    return None if high is None else (-margin, high + margin)


def measure_rests(graph_module: fx.GraphModule, target: NpuTarget, batches: Iterable[Tensor]) -> dict[str, Rest]:
    """What rounding leaves of each convolution that is called once, by path, in graph order.

    Args:
        graph_module: a traced network without batch norm.
        target: NPU, for the format of weights.
        batches: images ``(B, 3, H, W)`` on the device of the network.
    """
    recorder = _RestRecorder(graph_module, target.weights)
    with torch.no_grad():
        for batch in batches:
            recorder.run(batch)
    return {
        name: Rest(float(10 * torch.log10(signal / noise.clamp(min=1e-30))), float(largest), macs)
        for name, (signal, noise, largest, macs) in recorder.measured.items()
    }


class _RestRecorder(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, weights: TensorFormat) -> None:
        super().__init__(graph_module)
        self.rests: dict[fx.Node, _Layer] = {}
        for node in graph_module.graph.nodes:
            layer = called_once(graph_module, node, nn.Conv2d, nn.ConvTranspose2d)
            if layer is not None:
                rest = copy.deepcopy(layer)
                rest.weight = nn.Parameter(layer.weight.detach() - _on_grid(layer, weights))
                rest.bias = None
                self.rests[node] = rest
        self.measured: dict[str, tuple[Tensor, Tensor, Tensor, int]] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n in self.rests:
            left = self.rests[n](self.env[n.all_input_nodes[0]])
            centred = value.detach() - value.detach().mean((0, 2, 3), keepdim=True)
            zero = value.new_zeros(())
            signal, noise, largest, _ = self.measured.get(str(n.target), (zero, zero, zero, 0))
            weight = self.rests[n].weight
            places = self.env[n.all_input_nodes[0]] if isinstance(self.rests[n], nn.ConvTranspose2d) else value
            macs = weight.numel() * places.shape[-2] * places.shape[-1]
            self.measured[str(n.target)] = (
                signal + centred.double().square().sum(),
                noise + left.double().square().sum(),
                torch.maximum(largest, left.abs().max()),
                macs,
            )
        return value


def _on_grid(layer: _Layer, weights: TensorFormat) -> Tensor:
    """The weight of a layer as the target rounds it."""
    channel_dim = int(isinstance(layer, nn.ConvTranspose2d))
    quantizer = FakeQuantizer("weight", "weight", weights, layer.weight.shape[channel_dim], channel_dim)
    quantizer.to(layer.weight.device)
    with torch.no_grad():
        return cast(Tensor, quantizer(layer.weight.detach()))


def _table(rests: Mapping[str, Rest]) -> Table:
    table = Table("layer", "SQNR [dB]", "multiplications", title="Layers that are computed as two")
    for name, each in rests.items():
        table.add_row(name, f"{each.sqnr_db:.1f}", f"{each.macs:,}")
    return table
