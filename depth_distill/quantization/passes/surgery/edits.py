"""Small edits of graphs: reading nodes, putting modules in and taking nodes out."""

import copy
from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx, nn

from depth_distill.quantization.graph.node_kinds import scoped_name
from depth_distill.quantization.graph.trace import calls_by_module


def module_of(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls; None of other nodes."""
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def place_of(node: fx.Node) -> str:
    """Name of a node for people: its module, or the module around it and the node's own name, which is unique."""
    name = scoped_name(node)
    if node.op == "call_module":
        return name
    scope = name.rpartition(".")[0]
    return f"{scope}.{node.name}" if scope else node.name


def owner_of(node: fx.Node) -> str:
    """Name of the module that a node calls, or of the innermost one whose code the function stands in."""
    name = scoped_name(node)
    return name if node.op == "call_module" else name.rpartition(".")[0] or node.name


def free_name(graph_module: fx.GraphModule, wanted: str) -> str:
    """``wanted``, or ``wanted`` with a number behind it, that no module has."""
    taken = {name for name, _ in graph_module.named_modules()}
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def insert_module(graph_module: fx.GraphModule, name: str, module: nn.Module, source: fx.Node, at: fx.Node) -> fx.Node:
    """Call ``module``, under ``name``, on ``source`` right before the node ``at``; the new node has no readers yet."""
    graph_module.add_submodule(name, module)
    with at.graph.inserting_before(at):
        node = at.graph.call_module(name, (source,))
    node.meta = copy.copy(at.meta)
    return node


def take_out(node: fx.Node, instead: fx.Node) -> None:
    """Let the readers of ``node`` read ``instead``, and remove ``node`` with everything that only it needed."""
    node.replace_all_uses_with(instead)
    erase(node)


def erase(node: fx.Node) -> None:
    """Remove a node that nothing reads, and then those of its inputs that nothing else reads."""
    if node.users or node.op in ("placeholder", "output"):
        return
    sources = node.all_input_nodes
    node.graph.erase_node(node)
    for source in sources:
        erase(source)


def finish(graph_module: fx.GraphModule) -> fx.GraphModule:
    """The same graph module, checked and compiled, without modules that are no longer called."""
    graph_module.delete_all_unused_submodules()
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def called_once(graph_module: fx.GraphModule, node: fx.Node, *classes: type[nn.Module]) -> Any:
    """The module of exactly one of ``classes`` that this node, and no other, calls; None if there is none.

    A subclass may compute more than its base, so it does not count. Nor does a layer that shares its weight.
    """
    module = module_of(graph_module, node)
    if type(module) not in classes or len(calls_by_module(graph_module)[str(node.target)]) != 1:
        return None
    assert module is not None
    own = {id(parameter) for parameter in module.parameters()}
    owners = [name for name, value in graph_module.named_parameters(remove_duplicate=False) if id(value) in own]
    return module if len(owners) == len(own) else None


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of an argument that may be one number for both."""
    if isinstance(value, Iterable):
        first, second = value
        return int(first), int(second)
    return int(value), int(value)


def parameter_like(graph_module: fx.GraphModule) -> Tensor:
    """A tensor with the device and type of a network's parameters."""
    return next(value for value in graph_module.state_dict().values() if value.is_floating_point())
