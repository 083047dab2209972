"""The one way a network becomes a graph that passes can edit."""

import copy

from timm.layers import BatchNormAct2d
from torch import fx, nn

LEAF_MODULES = (BatchNormAct2d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class NetworkTracer(fx.Tracer):
    """Keeps whole what a pass treats as one layer, also where the class is timm's and not torch's.

    timm's ``BatchNormAct2d`` is a batch norm *and* an activation: traced through, it would fall apart into functional
    calls and lose its name.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes a single node."""
        return isinstance(m, LEAF_MODULES) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """A graph of a copy of ``model`` in evaluation mode; the names of its leaf modules survive.

    A graph is copied as it is, and so is that of a module which keeps one as ``graph``.

    Raises:
        torch.fx.proxy.TraceError: the network has control flow that depends on tensors.
    """
    held = model if isinstance(model, fx.GraphModule) else getattr(model, "graph", None)
    if isinstance(held, fx.GraphModule):
        return copy.deepcopy(held).eval()
    model = copy.deepcopy(model).eval()
    graph = NetworkTracer().trace(model)
    return fx.GraphModule(model, graph, type(model).__name__)


def calls_by_module(graph_module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """The nodes that call each module, in graph order: more than one where a module is used twice."""
    calls: dict[str, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    return calls
