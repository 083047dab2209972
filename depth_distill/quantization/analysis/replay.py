"""Run a network again after quantizers or substitutions were switched, recomputing only the affected nodes."""

import copy
import operator
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from depth_distill.quantization.graph.substituted import Substituted, substituted
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer


class Replay:
    """Runs a network on the same images with many settings of its quantizers and substituted activations.

    :meth:`record` runs the network once and stores the value of every node. :meth:`again` runs it with other settings
    and recomputes only the nodes after a site that was switched. The result is bit-identical to that of a complete
    run: the same operators are called on the same tensors. In-place operators are called out of place, so the result
    differs for a network that reads a tensor after it was overwritten.

    Memory: the values of all nodes for one batch.

    Args:
        quantized: network from ``fake_quantize``, with ranges; a copy in evaluation mode is used.
    """

    def __init__(self, quantized: fx.GraphModule) -> None:
        self.network = without_side_effects(quantized)
        self.switches: dict[str, FakeQuantizer | Substituted] = {
            **quantizers(self.network),
            **substituted(self.network),
        }
        self._interpreter = fx.Interpreter(self.network, garbage_collect_values=False)
        self._values: dict[fx.Node, object] = {}
        self._recorded: frozenset[str] = frozenset()
        self._nodes: dict[str, list[fx.Node]] = {}
        modules = dict(self.network.named_modules())
        for node in self.network.graph.nodes:
            module = modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, FakeQuantizer | Substituted):
                self._nodes.setdefault(module.site, []).append(node)
            elif isinstance(module, QuantizedLayer):
                self._nodes.setdefault(module.weight_quantizer.site, []).append(node)

    def switch_on(self, sites: Collection[str]) -> None:
        """Switch these quantizers and substitutions on, and all others off."""
        for site, each in self.switches.items():
            each.enabled = site in sites

    def record(self, images: Tensor) -> Any:
        """What the network returns for the images with the current settings; all intermediate values are stored."""
        self._recorded = self._switched_on()
        self._values = {}
        self._interpreter.args_iter = iter([images])
        self._interpreter.env = self._values
        with torch.inference_mode():
            for node in self.network.graph.nodes:
                self._values[node] = self._interpreter.run_node(node)
        return self._codes(self._values)

    def again(self, upto: str | None = None) -> Any:
        """What the network returns for the recorded images with the current settings.

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

    def recorded_inputs(self, site: str) -> list[Tensor]:
        """What a site was given in the recorded run, once per call."""
        return [_tensor(self._values[node.all_input_nodes[0]]) for node in self._nodes[site]]

    def _switched_on(self) -> frozenset[str]:
        return frozenset(site for site, each in self.switches.items() if each.enabled)

    def _codes(self, values: dict[fx.Node, object]) -> object:
        return next(values[node] for node in self.network.graph.nodes if node.op == "output")


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
