"""Trace a network to a graph that passes can edit."""

import copy

from timm.layers import BatchNormAct2d
from torch import fx, nn

from depth_distill.errors import ConfigError

LEAF_MODULES = (BatchNormAct2d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class UntraceableError(ConfigError):
    """The control flow of a network depends on tensors; its ONNX file can be brought in instead."""


class NetworkTracer(fx.Tracer):
    """Does not trace into modules that passes treat as one layer, including timm's.

    timm's ``BatchNormAct2d`` is a batch norm *and* an activation: tracing into it would give functional calls without
    its name.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes a single node."""
        return isinstance(m, LEAF_MODULES) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, method: str = "forward") -> fx.GraphModule:
    """The graph of a copy of ``model`` in evaluation mode; its leaf modules keep their names.

    Args:
        model: a network.
        method: method that maps images to what the graph returns.

    A model that is a graph already, or says so by a method ``traced``, is only copied.

    Raises:
        UntraceableError: the control flow of the network depends on tensors.
    """
    traced = getattr(model, "traced", None)
    held = traced() if callable(traced) else model
    if isinstance(held, fx.GraphModule):
        return copy.deepcopy(held).eval()
    model = copy.deepcopy(model).eval()
    tracer = NetworkTracer()
    tracer.traced_func_name = method
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the network makes of values that it does not have
        raise UntraceableError(f"{type(model).__name__} cannot be traced: {error}") from error
    return fx.GraphModule(model, graph, type(model).__name__)


def calls_by_module(graph_module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """The nodes that call each module, in graph order: several for a module that is used more than once."""
    calls: dict[str, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    return calls
