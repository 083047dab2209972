"""Trace a network to a graph that passes can edit."""

import copy
import operator
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import BatchNormAct2d
from torch import fx, nn

from depth_distill.errors import ConfigError, UserError
from depth_distill.quantization.graph.canonical import make_canonical
from depth_distill.quantization.graph.plain_modules import plain, unwrapped
from depth_distill.quantization.graph.sized_tracer import SizedProxy, SizedTracer

LEAF_MODULES = (BatchNormAct2d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_WAY_OUT = "export it to ONNX and give that file: depth-distill import --onnx FILE"


class UntraceableError(ConfigError):
    """A network cannot be traced; its ONNX file can be brought in instead."""


class _Value(fx.Proxy):
    """A value in a trace that knows `x += y` from `x + y`: whatever else is called x changes, too."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._overwritten(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._overwritten(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._overwritten(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._overwritten(operator.itruediv, other)

    def _overwritten(self, function: Callable[..., Any], other: Any) -> fx.Proxy:
        # Named as the operator that it becomes: names of nodes are names of ranges.
        name = function.__name__.removeprefix("i")
        return self.tracer.create_proxy("call_function", function, (self, other), {}, name=name)


class _SizedValue(_Value, SizedProxy):
    """The same at one image size."""


class _Leaves(fx.Tracer):
    """What is one node, and where a trace failed."""

    failed_in: tuple[str, nn.Module] | None = None  # path and module, innermost

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes a single node.

        A class derived from a layer is none: it may normalize its weight, or do more than its base.
        """
        if isinstance(m, LEAF_MODULES):
            return type(m) in LEAF_MODULES or type(m).__module__.startswith("depth_distill.")
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Note in which module a trace fails."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed_in is None:
                self.failed_in = (self.path_of_module(m), m)
            raise


class NetworkTracer(_Leaves):
    """Does not trace into modules that passes treat as one layer, including timm's.

    timm's ``BatchNormAct2d`` is a batch norm *and* an activation: tracing into it would give functional calls without
    its name.
    """

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The value of a node."""
        return _Value(node, self)


class _SizedNetworkTracer(_Leaves, SizedTracer):
    """The same at one image size."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The value of a node."""
        return _SizedValue(node, self)


def traced_graph(model: nn.Module) -> fx.GraphModule | None:
    """The graph that a network is, or says by a method ``traced`` that it is; None of any other.

    An attribute that happens to be a graph means nothing: the network may compute something around it.
    """
    traced = getattr(model, "traced", None)
    held = traced() if callable(traced) else model
    return held if isinstance(held, fx.GraphModule) else None


def trace(model: nn.Module, method: str = "forward", image_size: tuple[int, int] | None = None) -> fx.GraphModule:
    """The graph of a copy of ``model`` in evaluation mode; its leaf modules keep their names.

    A graph, or a network that says it is one (:func:`traced_graph`), is only copied. Weight norms and the like are
    worked out, see :func:`~depth_distill.quantization.graph.plain_modules.plain`, and the graph is written in the few
    words that passes know, see :func:`~depth_distill.quantization.graph.canonical.make_canonical`.

    Args:
        model: a network that takes one image.
        method: method that maps images to what the graph returns.
        image_size: height and width, the same for every image. With it, what depends on shapes (padding "same", checks
            of sizes) is worked out where tracing fails otherwise; the graph is then right at this size only.

    Raises:
        UntraceableError: the network cannot be traced; the message names the line and the module.
        ConfigError: it has no layers, as a graph of ``torch.export``.
    """
    model = unwrapped(model)
    held = traced_graph(model)
    if held is not None:
        copied = copy.deepcopy(held)
        make_canonical(copied)
        return copied.eval()
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise UntraceableError(
            f"the network is TorchScript, which has no layers: give the nn.Module itself, or {_WAY_OUT}"
        )
    model = plain(model)
    tracer: _Leaves = NetworkTracer()
    tracer.traced_func_name = method
    try:
        try:
            graph = tracer.trace(model)
        except UserError:
            raise
        except Exception:  # whatever the user's code raises for a value that stands for an image
            if image_size is None:
                raise
            tracer = _SizedNetworkTracer((3, *image_size))
            tracer.traced_func_name = method
            graph = tracer.trace(model)
        _free_names(model, graph)
        traced = fx.GraphModule(model, graph, type(model).__name__)
    except UserError:
        raise
    except Exception as error:
        raise UntraceableError(_failure(model, tracer, error)) from error
    make_canonical(traced)
    return traced.eval()


def calls_by_module(graph_module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """The nodes that call each module, in graph order: several for a module that is used more than once."""
    calls: dict[str, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    return calls


def _free_names(model: nn.Module, graph: fx.Graph) -> None:
    """Rename attributes of a copy that a ``GraphModule`` has itself, in the graph, too."""
    for name in ("graph", "code"):
        if name in model._modules or name in model._parameters or name in model._buffers:
            setattr(model, f"{name}_", getattr(model, name))
            delattr(model, name)
            for node in graph.nodes:
                if node.op in ("call_module", "get_attr") and str(node.target).split(".")[0] == name:
                    node.target = f"{name}_{str(node.target).removeprefix(name)}"


def _failure(model: nn.Module, tracer: _Leaves, error: Exception) -> str:
    """Which line of whose module cannot be traced, and what to try."""
    path, module = tracer.failed_in or ("", model)
    whose = f"its module {path} ({type(module).__name__})" if path else "its own forward"
    line = _line(error)
    at = f" at {line}" if line else ""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{type(model).__name__} cannot be traced: {whose} fails{at}: {reason}; {_WAY_OUT}"


def _line(error: Exception) -> str:
    """The innermost line outside of torch and this package, as ``timm/layers/pool.py:42 (`if x.shape[1] > 3:`)``."""
    ours = (Path(torch.__file__).parent, Path(__file__).parents[1])
    rooms = (Path(timm.__file__).parents[1], Path.cwd())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if frame.filename.startswith("<") or any(file.is_relative_to(each) for each in ours):
            continue
        shown = next((file.relative_to(room) for room in rooms if file.is_relative_to(room)), file)
        return f"{shown}:{frame.lineno}" + (f" (`{frame.line}`)" if frame.line else "")
    return ""
