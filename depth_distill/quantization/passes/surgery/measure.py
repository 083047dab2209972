"""What the nodes of a graph compute: their shapes, and their values on the calibration images."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from depth_distill.errors import ConfigError
from depth_distill.quantization.passes.base import Context

Shape = tuple[int, ...]
Watch = Callable[[fx.Node, Any, Any], None]
"""Called with a node, the value of its first input before the node ran, and its own value."""

_DOUBLINGS = 4  # an interface without images may give a size that is too small to pad by reflection


def shapes(graph_module: fx.GraphModule, context: Context) -> dict[fx.Node, Shape]:
    """Shape of every node that computes a tensor, for one image of the size of the calibration images.

    Without images the size is that of the interface.

    Raises:
        ConfigError: the network does not run on an image of that size.
    """
    found: dict[fx.Node, Shape] = {}

    def keep(node: fx.Node, _: Any, value: Any) -> None:
        if isinstance(value, Tensor):
            found[node] = tuple(value.shape)

    if context.images:
        watch(graph_module, [context.batches[0][:1]], keep)
        return found
    height, width = context.interface.inputs.height, context.interface.inputs.width
    failure: Exception | None = None
    for doubling in range(_DOUBLINGS):
        size = (height << doubling, width << doubling)
        try:
            watch(graph_module, [context.interface.feed(torch.zeros(1, 3, *size))], keep)
            return found
        except RuntimeError as error:
            failure = failure or error
    raise ConfigError(f"the network does not run on an image of {height} x {width}: {failure}")


def watch(graph_module: fx.GraphModule, batches: Sequence[Tensor], look: Watch) -> None:
    """Run a graph on every batch, and look at each node as it is computed."""
    like = next((value for value in graph_module.state_dict().values() if value.is_floating_point()), None)
    with torch.no_grad():
        for batch in batches:
            _Watched(graph_module, look).run(batch if like is None else batch.to(like))


class _Watched(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, look: Watch) -> None:
        super().__init__(graph_module)
        self.look = look

    def run_node(self, n: fx.Node) -> Any:
        source = self.env[n.all_input_nodes[0]] if n.all_input_nodes else None
        # An operator in place would overwrite what is looked at.
        before = source.clone() if isinstance(source, Tensor) else source
        value = super().run_node(n)
        self.look(n, before, value)
        return value
