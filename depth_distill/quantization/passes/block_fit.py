"""The optimizer of :mod:`.reconstruct_blocks`: one block, its weights between two codes each, and its biases."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from depth_distill.quantization.graph.blocks import Block
from depth_distill.quantization.passes.soft_rounding import SoftRounding, WeightGrid
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer

_LEARNING_RATE = 0.2  # of rounding; as in adaround
_BIAS_LEARNING_RATE = 0.05  # in 255ths of the largest output of a layer, about one code; falls to 0
_LAMBDA = 10.0  # the error is 1 for rounding to nearest, and the regularizer a mean, so it fits any block
_DROPPED = 0.5  # share of rounded values that are replaced by float ones (QDrop)
_POSITIONS = 256  # output positions per step: whole images, two at least
_LEAST_IMAGES = 2
_HELD_OUT = 8  # one image in eight is held out
_JUDGED = 16  # images at once where nothing is learned
_POOL = 1 << 22  # random decisions drawn at once, of which each use takes a stretch: drawing is slow


@dataclass(frozen=True)
class BlockValues:
    """What goes in and comes out of a block, for all images.

    Attributes:
        received: inputs from the quantized network.
        exact: the same inputs from the float network.
        constants: inputs that are the same for every image.
        targets: outputs of the block in the float network, by the node of the quantized one before its quantizer.
    """

    received: Mapping[fx.Node, Tensor]
    exact: Mapping[fx.Node, Tensor]
    constants: Mapping[fx.Node, Any]
    targets: Mapping[fx.Node, Tensor]


class BlockFit(fx.Interpreter):
    """Fits the layers of one block, in place.

    Args:
        network: the quantized network.
        nodes: nodes of the block.
        values: what goes in and comes out.
        once: layers that are called once; others stay as they are.
        iterations: optimizer steps.
        generator: draws images and dropped values.

    Attributes:
        layers: what is fitted, by name.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        nodes: Block,
        values: BlockValues,
        once: Collection[str],
        iterations: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(network)
        self._nodes, self._values = nodes, values
        self._iterations, self._generator = iterations, generator
        names = [str(node.target) for node in nodes if node.op == "call_module" and node.target in once]
        modules = {name: network.get_submodule(name) for name in names}
        self.layers = {
            name: _FittedLayer(layer)
            for name, layer in modules.items()
            if isinstance(layer, QuantizedLayer) and layer.weight_quantizer.rounds_to_integers
        }
        self._dropped: Tensor | None = None  # 1 where a float value takes the place of a rounded one

    def __call__(self) -> bool:
        """Learn, then write to the layers; whether the block is better than rounded to nearest on held-out images."""
        count = len(next(iter(self._values.targets.values())))
        split = count - count // _HELD_OUT
        seen, unseen = torch.arange(split), torch.arange(split, count) if split < count else torch.arange(count)
        nearest = self._errors(seen)
        before = self._errors(unseen)
        is_better = False
        if float(nearest.sum()) > 0:
            self._learn(seen, nearest.clamp(min=torch.finfo(nearest.dtype).tiny))
            ratios = self._errors(unseen) / before.clamp(min=torch.finfo(before.dtype).tiny)
            is_better = float(ratios.mean()) < 1
        for layer in self.layers.values():
            layer.write(is_better)
        return is_better

    def _learn(self, seen: Tensor, nearest: Tensor) -> None:
        fitted = list(self.layers.values())
        biases = [layer.shift for layer in fitted if layer.shift is not None]
        groups = [{"params": [layer.soft.variable for layer in fitted], "lr": _LEARNING_RATE}]
        groups += [{"params": biases, "lr": _BIAS_LEARNING_RATE}] if biases else []
        batch = self._images_per_step(len(seen))
        order = torch.empty(0, dtype=torch.long)
        pool = torch.rand(_POOL, generator=self._generator) < _DROPPED
        self._dropped = pool.to(nearest.device, nearest.dtype)
        with torch.enable_grad():
            optimizer = torch.optim.Adam(groups, fused=True)
            for iteration in range(self._iterations):
                if len(order) < batch:
                    order = seen[torch.randperm(len(seen), generator=self._generator)]
                images, order = order[:batch], order[batch:]
                progress = iteration / self._iterations
                undecided = [layer.soften(progress) for layer in fitted]
                error = (self._squares(images) / nearest).mean()
                loss = error + _LAMBDA * torch.stack(undecided).mean()
                if biases:
                    optimizer.param_groups[-1]["lr"] = _BIAS_LEARNING_RATE * (1 + math.cos(math.pi * progress)) / 2
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self._dropped = None
        for layer in fitted:
            layer.decide()

    def _images_per_step(self, count: int) -> int:
        positions = max(target[0, 0].numel() for target in self._values.targets.values())
        return min(count, max(_LEAST_IMAGES, math.ceil(_POSITIONS / positions)))

    def _errors(self, images: Tensor) -> Tensor:
        """Mean squared error of every output, with weights on their grid and every activation rounded."""
        with torch.no_grad():
            sums = [self._squares(some) * len(some) for some in images.split(_JUDGED)]
        return torch.stack(sums).sum(0) / len(images)

    def _squares(self, images: Tensor) -> Tensor:
        """Mean squared error of every output on some images, ``(outputs,)``."""
        outputs = self._outputs(images)
        return torch.stack(
            [
                (outputs[node] - target[images.to(target.device)]).square().mean()
                for node, target in self._values.targets.items()
            ]
        )

    def _outputs(self, images: Tensor) -> dict[fx.Node, Tensor]:
        self.env = dict(self._values.constants)
        for node, received in self._values.received.items():
            chosen = images.to(received.device)
            self.env[node] = self._drop(received[chosen], self._values.exact[node][chosen])
        for node in self._nodes:
            self.env[node] = self.run_node(node)
        outputs = {node: self.env[node] for node in self._values.targets}
        self.env = {}
        return outputs

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer with the weights of this fit, a quantizer that is dropped here and there, or any other module."""
        module = self.module.get_submodule(target)
        if target in self.layers:
            return self.layers[target].apply_to(*args, **kwargs)
        result = super().call_module(target, args, kwargs)
        return self._drop(result, args[0]) if isinstance(module, FakeQuantizer) else result

    def _drop(self, rounded: Tensor, exact: Tensor) -> Tensor:
        if self._dropped is None or not rounded.is_floating_point():
            return rounded
        size = rounded.numel()
        if size > len(self._dropped):
            self._dropped = self._dropped.repeat(math.ceil(2 * size / len(self._dropped)))
        first = int(torch.randint(len(self._dropped) - size + 1, (), generator=self._generator))
        return rounded.lerp(exact, self._dropped[first : first + size].view(rounded.shape).to(rounded.dtype))


class _FittedLayer:
    """A layer whose weights are between two codes each, and whose bias is free.

    Attributes:
        soft: rounding of the weights.
        shift: change of the bias in 255ths of the layer's largest output; None without a bias.
    """

    def __init__(self, layer: QuantizedLayer) -> None:
        self._layer = layer
        self._grid = WeightGrid.of(layer)
        self.soft = SoftRounding(self._grid)
        self.shift = None if layer.bias is None else nn.Parameter(torch.zeros_like(layer.bias))
        self._unit = 0.0  # until an output was seen
        self._codes = self._grid.nearest
        self._weight = self._grid.nearest * self._grid.scale

    def soften(self, progress: float) -> Tensor:
        """Use weights between codes; returns how undecided they are."""
        self._weight, undecided = self.soft.weight(progress)
        return undecided

    def decide(self) -> None:
        """Use the weights on the grid that were learned."""
        self._codes = self._grid.rounded(self.soft.up())
        self._weight = self._codes * self._grid.scale

    def apply_to(self, values: Tensor) -> Tensor:
        """The layer with the weight and bias of this fit."""
        weight = self._weight.to(self._layer.weight.dtype)
        if not self._unit:
            result = self._layer.apply_to(values, weight, self._layer.bias)
            self._unit = float(result.detach().abs().max()) / 255
            return result
        return self._layer.apply_to(values, weight, self._bias())

    def write(self, is_better: bool) -> None:
        """Set the layer's parameters: those that were learned, or rounded to nearest and the bias as it was."""
        codes = self._codes if is_better else self._grid.nearest
        with torch.no_grad():
            self._layer.weight.copy_(codes * self._grid.scale)
            if is_better and self.shift is not None:
                self._layer.bias.copy_(self._bias())

    def _bias(self) -> Tensor | None:
        return None if self.shift is None else self._layer.bias.detach() + self._unit * self.shift
