"""Run a fake-quantized network again after some quantizers were switched, recomputing only the affected nodes."""

import copy
import operator
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer


class Replay:
    """Runs a network on the same images with many settings of its quantizers.

    :meth:`record` runs the network once and stores the value of every node. :meth:`again` runs it with other settings
    and recomputes only the nodes after a quantizer that was switched. The result is bit-identical to that of a complete
    run: the same operators are called on the same tensors. In-place operators are called out of place, so the result
    differs for a network that reads a tensor after it was overwritten.

    Memory: the values of all nodes for one batch.

    Args:
        quantized: network from ``fake_quantize``, with ranges; a copy in evaluation mode is used.
    """

    def __init__(self, quantized: fx.GraphModule) -> None:
        self.network = without_side_effects(quantized)
        self.quantizers = quantizers(self.network)
        self._interpreter = fx.Interpreter(self.network, garbage_collect_values=False)
        self._values: dict[fx.Node, object] = {}
        self._recorded: frozenset[str] = frozenset()
        self._nodes: dict[str, list[fx.Node]] = {}
        modules = dict(self.network.named_modules())
        for node in self.network.graph.nodes:
            module = modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, FakeQuantizer):
                self._nodes.setdefault(module.site, []).append(node)
            elif isinstance(module, QuantizedLayer):
                self._nodes.setdefault(module.weight_quantizer.site, []).append(node)

    def switch_on(self, sites: Collection[str]) -> None:
        """Switch these quantizers on, and all others off."""
        for site, quantizer in self.quantizers.items():
            quantizer.enabled = site in sites

    def record(self, images: Tensor) -> Tensor:
        """Codes of the images with the current settings; all intermediate values are stored."""
        self._recorded = self._switched_on()
        self._values = {}
        self._interpreter.args_iter = iter([images])
        self._interpreter.env = self._values
        with torch.inference_mode():
            for node in self.network.graph.nodes:
                self._values[node] = self._interpreter.run_node(node)
        return self._codes(self._values)

    def again(self, upto: str | None = None) -> Tensor:
        """Codes of the recorded images with the current settings.

        Args:
            upto: site of a quantizer to stop at; its output is returned instead.
        """
        last = None if upto is None else self._nodes[upto][0]
        changed = self._switched_on() ^ self._recorded
        stale = {node for site in changed for node in self._nodes[site]}
        values = dict(self._values)
        self._interpreter.env = values
        with torch.inference_mode():
            for node in self.network.graph.nodes:
                if node in stale or not stale.isdisjoint(node.all_input_nodes):
                    stale.add(node)
                    values[node] = self._interpreter.run_node(node)
                if last is not None and node is last:
                    return _tensor(values[node])
        return self._codes(values)

    def recorded(self, site: str) -> Tensor:
        """Output of a quantizer in the recorded run."""
        return _tensor(self._values[self._nodes[site][0]])

    def _switched_on(self) -> frozenset[str]:
        return frozenset(site for site, quantizer in self.quantizers.items() if quantizer.enabled)

    def _codes(self, values: dict[fx.Node, object]) -> Tensor:
        return _tensor(next(values[node] for node in self.network.graph.nodes if node.op == "output"))


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def without_side_effects(quantized: fx.GraphModule) -> fx.GraphModule:
    """A copy in evaluation mode in which no operator overwrites its input."""
    network = copy.deepcopy(quantized).eval()
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    plain = {operator.iadd: operator.add, operator.imul: operator.mul, F.relu_: F.relu, torch.relu_: torch.relu}
    for node in network.graph.nodes:
        if node.op == "call_function" and node.target in plain:
            node.target = plain[node.target]
        elif node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).startswith("_"):
            node.target = str(node.target).rstrip("_")
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
    network.recompile()
    return network
