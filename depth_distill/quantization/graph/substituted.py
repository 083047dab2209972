"""A network as a tool chain computes it that substitutes activations, and the network itself again."""

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from depth_distill.quantization.graph.node_kinds import activation_of, argument, classify, operation_name, scoped_name
from depth_distill.quantization.graph.substitutions import (
    EXACT,
    SUBSTITUTIONS,
    Around,
    Function,
    Substituted,
    require_substitution,
)
from depth_distill.quantization.target.substitutions import ITSELF, UNCONFIRMED

__all__ = ["SUBSTITUTIONS", "Substituted", "operator_of", "output_sites", "restore", "substitute", "substituted"]

_OPERATORS = {
    "sigmoid": "Sigmoid",
    "hardsigmoid": "HardSigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "elu": "Elu",
    "silu": "Swish",
    "gelu": "Gelu",
    "hardswish": "HardSwish",
}
_HARD_SWISH_SINCE = 14  # opset; in an older file it is x * HardSigmoid(x)
_NEWEST = 10**6


def substitute(
    graph_module: fx.GraphModule, substitutions: Mapping[str, str], max_opset: int | None = None
) -> tuple[fx.GraphModule, list[str]]:
    """A copy in which activations are computed as a tool chain does, and the names of those.

    A substituted Sigmoid is also that in a SiLU or GLU, which a file has as ``x * Sigmoid(x)``, unless ``Swish`` is
    named as well; a Tanh also that in a GELU of this kind, a HardSigmoid that in a HardSwish of a file before opset 14.

    Args:
        graph_module: a traced network; it is not changed.
        substitutions: what is computed in place of which operator, see :data:`SUBSTITUTIONS`; ``no`` and
            ``unconfirmed`` are the operator itself.
        max_opset: newest opset of the files that the tool chain reads; None: of the newest operators.

    Raises:
        ConfigError: an operator or substitution is not known.
    """
    for operator, by in substitutions.items():
        if by not in (ITSELF, UNCONFIRMED):
            require_substitution(operator, by)
    changed = copy.deepcopy(graph_module)
    return changed, substitute_in_place(changed, substitutions, max_opset)


def substitute_in_place(
    graph_module: fx.GraphModule, substitutions: Mapping[str, str], max_opset: int | None = None
) -> list[str]:
    """Do that to the graph itself; nodes keep their names and their kind."""
    places: list[str] = []
    for node in list(graph_module.graph.nodes):
        found = _choice(graph_module, node, substitutions, max_opset or _NEWEST)
        if found is None:
            continue
        operator, by, exact, around = found
        place = scoped_name(node)
        places.append(place)
        count = places.count(place)
        site = f"{place}{f'_{count - 1}' if count > 1 else ''} ({operator} by {by})"
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        replaced: Any = module
        if module is None:
            replaced = (node.op, node.target, *_options_of(node))
            node.meta["scoped_name"] = place  # what functions are called by survives
        path = str(node.target) if module is not None else f"substituted_{node.name}"
        stand_in = Substituted(operator, by, exact, around, site, activation_of(graph_module, node), replaced)
        stand_in.train(graph_module.training)
        if module is not None:
            graph_module.set_submodule(path, stand_in)
        else:
            graph_module.add_submodule(path, stand_in)
            source = node.all_input_nodes[0]
            node.op, node.target, node.args, node.kwargs = "call_module", path, (source,), {}
    graph_module.graph.lint()
    graph_module.recompile()
    return places


def restore(graph_module: fx.GraphModule, sites: Collection[str] | None = None) -> None:
    """Put every activation back in its place, or those of some sites, in the graph itself."""
    for node, stand_in in list(_stand_ins(graph_module)):
        if sites is not None and stand_in.site not in sites:
            continue
        if isinstance(stand_in.replaced, nn.Module):
            graph_module.set_submodule(str(node.target), stand_in.replaced)
        elif stand_in.replaced is not None:
            op, target, args, kwargs = stand_in.replaced
            node.op, node.target, node.args, node.kwargs = op, target, (node.args[0], *args), kwargs
            node.meta.pop("scoped_name", None)
    graph_module.delete_all_unused_submodules()
    graph_module.graph.lint()
    graph_module.recompile()


def substituted(model: nn.Module) -> dict[str, Substituted]:
    """The substituted activations of a model by the name of their site."""
    return {module.site: module for module in model.modules() if isinstance(module, Substituted)}


def output_sites(graph_module: fx.GraphModule) -> set[str]:
    """Sites of the substituted activations whose values the network returns, moved at most."""
    (output,) = (node for node in graph_module.graph.nodes if node.op == "output")
    operations, found = classify(graph_module), set()
    waiting = list(output.all_input_nodes)
    while waiting:
        node = waiting.pop()
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Substituted):
            found.add(module.site)
        elif operations[node].kind in ("move", "identity", "concat"):
            waiting += node.all_input_nodes
    return found


def operator_of(graph_module: fx.GraphModule, node: fx.Node) -> str | None:
    """The operator of an activation that tool chains may substitute; None of any other node."""
    if not node.op.startswith("call"):
        return None
    return _OPERATORS.get(operation_name(graph_module, node))


def _stand_ins(graph_module: fx.GraphModule) -> Iterator[tuple[fx.Node, Substituted]]:
    for node in graph_module.graph.nodes:
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Substituted):
            yield node, module


def _choice(
    graph_module: fx.GraphModule, node: fx.Node, substitutions: Mapping[str, str], max_opset: int
) -> tuple[str, str, Function, Around | None] | None:
    """What is substituted in a node: operator, by what, the operator as it is there, and what is around it."""
    for operator, exact, around in _written_as(graph_module, node, max_opset):
        by = substitutions.get(operator, UNCONFIRMED)
        if by == ITSELF:
            return None
        if by != UNCONFIRMED:
            return operator, by, exact, around
    return None


def _written_as(
    graph_module: fx.GraphModule, node: fx.Node, max_opset: int
) -> Iterator[tuple[str, Function, Around | None]]:
    """The operators that an activation may be in a file, the one that stands for all of it first."""
    if not node.op.startswith("call"):
        return
    name = operation_name(graph_module, node)
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if name in _OPERATORS:
        yield _OPERATORS[name], _call(node) if module is None else _out_of_place(module), None
    if name == "silu":
        yield "Sigmoid", EXACT["Sigmoid"], _gated
    elif name == "hardswish" and max_opset < _HARD_SWISH_SINCE:
        yield "HardSigmoid", EXACT["HardSigmoid"], _gated
    elif name == "gelu":
        approximate = argument(node, 1, "approximate", "none") if module is None else module.approximate
        if approximate == "tanh":
            yield "Tanh", EXACT["Tanh"], _gelu_of_tanh
    elif name == "glu":
        dim = argument(node, 1, "dim", -1) if module is None else module.dim
        yield "Sigmoid", EXACT["Sigmoid"], _glu(int(dim))  # type: ignore[arg-type]


def _call(node: fx.Node) -> Function:
    """The function or method of a node with its arguments, as a function of its first one."""
    op, target, (args, kwargs) = node.op, node.target, _options_of(node)

    def call(x: Tensor) -> Tensor:
        function: Any = getattr(type(x), str(target)) if op == "call_method" else target
        found: Tensor = function(x, *args, **kwargs)
        return found

    return call


def _options_of(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a function or method without its input, which may be given by name."""
    return tuple(node.args[1:]), {name: value for name, value in node.kwargs.items() if name != "input"}


def _out_of_place(module: nn.Module) -> nn.Module:
    """An activation that does not write over its input, which others may still read."""
    if getattr(module, "inplace", False):
        module = copy.copy(module)
        module.inplace = False  # type: ignore[assignment]
    return module


def _gated(x: Tensor, gate: Function) -> Tensor:
    return x * gate(x)


def _glu(dim: int) -> Around:
    def gated(x: Tensor, gate: Function) -> Tensor:
        value, source = x.chunk(2, dim)
        return value * gate(source)

    return gated


def _gelu_of_tanh(x: Tensor, tanh: Function) -> Tensor:
    """Hendrycks and Gimpel 2016, section 2."""
    return 0.5 * x * (1 + tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
