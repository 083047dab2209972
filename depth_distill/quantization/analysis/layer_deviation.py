"""SQNR of every tensor that a quantized network rounds, in a run of the whole network: where the error is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from depth_distill.quantization.analysis.deviation import sqnr_db
from depth_distill.quantization.analysis.replay import without_side_effects
from depth_distill.quantization.graph.node_kinds import classify
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer


@dataclass(frozen=True)
class LayerDeviation:
    """How far the output of an operator is from FP32, with everything before it quantized as well.

    Attributes:
        name: the layer, whose fused activation counts as its own; or a function and the module around it.
        is_layer: whether it has a weight.
        relative: RMS of the error over RMS of the FP32 value, over all images.
    """

    name: str
    is_layer: bool
    relative: float

    @property
    def sqnr_db(self) -> float:
        """The same in dB."""
        return sqnr_db(self.relative)


def layer_deviation(
    reference: fx.GraphModule, quantized: fx.GraphModule, batches: Sequence[Tensor]
) -> tuple[LayerDeviation, ...]:
    """One entry per rounded tensor, in graph order, without the input.

    Args:
        reference: the float network with the channel scales of ``quantized``; nodes have the same names.
        quantized: network from ``fake_quantize``, with ranges and all quantizers on.
        batches: inputs of both.
    """
    plain, rounded = without_side_effects(reference), without_side_effects(quantized)
    modules = dict(rounded.named_modules())
    operations = classify(rounded)
    sources: dict[fx.Node, fx.Node] = {}  # quantizer -> the node whose value it rounds
    for node in rounded.graph.nodes:
        if node.op == "call_module" and isinstance(modules[str(node.target)], FakeQuantizer):
            source = node.all_input_nodes[0]
            if operations[source].kind != "input":
                sources[node] = source
    names = {source.name for source in sources.values()}
    noise = dict.fromkeys(sources, 0.0)
    signal = dict.fromkeys(sources, 0.0)
    with torch.inference_mode():
        for batch in batches:
            exact = _Values(plain, names).of(batch)
            found = _Values(rounded, {node.name for node in sources}).of(batch)
            for node, source in sources.items():
                one, other = exact[source.name].double(), found[node.name].double()
                noise[node] += float((one - other).square().sum())
                signal[node] += float(one.square().sum())
    rows = []
    for node, source in sources.items():
        origin = _origin(source, modules)
        is_layer = origin is not None
        relative = (noise[node] / signal[node]) ** 0.5 if signal[node] > 0 else float(noise[node] > 0)
        quantizer = modules[str(node.target)]
        assert isinstance(quantizer, FakeQuantizer)
        rows.append(LayerDeviation(origin or quantizer.site, is_layer, relative))
    return tuple(rows)


class _Values(fx.Interpreter):
    """Runs a graph once and keeps the values of some nodes."""

    def __init__(self, graph_module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(graph_module)
        self.names = names
        self.values: dict[str, Tensor] = {}

    def of(self, batch: Tensor) -> dict[str, Tensor]:
        self.run(batch)
        return self.values

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self.names:
            self.values[n.name] = value
        return value


def _origin(node: fx.Node, modules: dict[str, torch.nn.Module]) -> str | None:
    """The layer that a node's value comes from through activations that are fused into it; None if from none."""
    while True:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, QuantizedLayer):
            return str(node.target)
        inputs = node.all_input_nodes
        if isinstance(module, FakeQuantizer) or len(inputs) != 1 or node.op == "placeholder":
            return None
        node = inputs[0]
