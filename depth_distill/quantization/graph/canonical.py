"""The same graph in fewer words: layers as modules, ReLU as ReLU, nothing that writes over its input."""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import argument

_OUT_OF_PLACE: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, torch.relu_: torch.relu, F.relu_: F.relu, F.leaky_relu_: F.leaky_relu,
    F.elu_: F.elu, F.hardtanh_: F.hardtanh, torch.clamp_: torch.clamp,
    torch.clamp_min_: torch.clamp_min, torch.sigmoid_: torch.sigmoid, torch.tanh_: torch.tanh,
}  # fmt: skip
_VIEWS = {
    operator.getitem, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.chunk, torch.split,
    torch.squeeze, torch.unsqueeze, F.dropout, F.dropout2d, "view", "reshape", "flatten", "permute", "transpose",
    "chunk", "split", "squeeze", "unsqueeze", "expand", "contiguous", "detach", "to", "float", "t",
}  # fmt: skip
_VIEW_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Unflatten)
_CLAMPS = {torch.clamp, torch.clip, torch.clamp_min, "clamp", "clip", "clamp_min"}
_THRESHOLDS = {F.threshold, torch.threshold}

# Of each functional layer its parameters in order, with defaults, and the class of its module.
_CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_TRANSPOSED = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
_LAYERS: dict[Any, tuple[type[nn.Module], dict[str, Any]]] = {
    F.conv2d: (nn.Conv2d, _CONVOLUTION),
    torch.conv2d: (nn.Conv2d, _CONVOLUTION),
    F.conv_transpose2d: (nn.ConvTranspose2d, _TRANSPOSED),
    torch.conv_transpose2d: (nn.ConvTranspose2d, _TRANSPOSED),
    F.linear: (nn.Linear, {}),
}


def make_canonical(graph_module: fx.GraphModule) -> None:
    """Rewrite a graph of ours in place; it computes the same.

    Operators that write over their input return a new tensor. A clamp at 0 without an upper end is a ReLU. A functional
    layer whose weight is a constant, or is computed from constants (weight standardization), becomes a module under the
    name of the module that holds the weight.

    Raises:
        ConfigError: the graph is one of ``torch.export``.
    """
    for node in graph_module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            raise ConfigError(
                f"the network is a graph of torch.export ({node.name} calls {node.target}), which has no layers: give "
                "the nn.Module that was exported itself, or its ONNX file"
            )
    _without_overwriting(graph_module)
    for node in list(graph_module.graph.nodes):
        _write_relu(node, graph_module)
    _write_layers(graph_module)
    graph_module.graph.lint()
    graph_module.recompile()


def _without_overwriting(graph_module: fx.GraphModule) -> None:
    graph, order = graph_module.graph, {node: place for place, node in enumerate(graph_module.graph.nodes)}
    modules = dict(graph_module.named_modules())
    kept: set[str] = set()  # modules with a call that has to go on writing over its input
    for node in graph.nodes:
        if not node.all_input_nodes or not _overwrites(node, modules):
            continue
        source = node.all_input_nodes[0]
        later = [user for user in source.users if order[user] > order[node]]
        base, bases = source, []
        while _is_view(base, modules) and base.all_input_nodes:
            base = base.all_input_nodes[0]
            bases.append(base)
        views = [user for user in source.users if order[user] < order[node] and _is_view(user, modules)]
        if views or any(order[user] > order[node] for each in bases for user in each.users if user is not source):
            kept.add(str(node.target))  # the tensor has another name, which is read later
            continue
        for user in later if not _is_number(source) else ():
            user.replace_input_with(source, node)  # what it reads has been overwritten by then
        _return_new(node)
    for name, module in modules.items():
        if name not in kept and getattr(module, "inplace", None) is True:
            module.inplace = False


def _overwrites(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return getattr(modules[str(node.target)], "inplace", None) is True
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return node.op == "call_function" and (node.target in _OUT_OF_PLACE or node.kwargs.get("inplace") is True)


def _return_new(node: fx.Node) -> None:
    if node.op == "call_method":
        node.target = str(node.target).removesuffix("_")
    elif node.kwargs.get("inplace") is True:
        node.kwargs = {**node.kwargs, "inplace": False}
    elif node.op == "call_function":
        node.target = _OUT_OF_PLACE[node.target]


def _is_number(node: fx.Node) -> bool:
    """Whether a value is a size or made of sizes: `+=` gives a new number, and the old one stays."""
    if node.target is getattr or (node.op == "call_method" and node.target in ("size", "dim", "numel")):
        return True
    sources = node.all_input_nodes
    return node.op == "call_function" and bool(sources) and all(_is_number(each) for each in sources)


def _is_view(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _VIEW_MODULES)
    return node.op in ("call_function", "call_method") and node.target in _VIEWS


def _write_relu(node: fx.Node, graph_module: fx.GraphModule) -> None:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        if type(module) is nn.Threshold and module.threshold == 0 and module.value == 0:
            graph_module.set_submodule(str(node.target), nn.ReLU())
    elif node.op in ("call_function", "call_method"):
        lowest, highest = (argument(node, place, name) for place, name in ((1, "min"), (2, "max")))
        is_clamp = node.target in _CLAMPS and highest is None
        is_threshold = node.target in _THRESHOLDS and argument(node, 2, "value") == 0
        lowest = argument(node, 1, "threshold") if is_threshold else lowest
        if (is_clamp or is_threshold) and type(lowest) in (int, float) and lowest == 0:
            source = node.all_input_nodes[0]
            with node.graph.inserting_before(node):
                relu = node.graph.call_function(F.relu, (source,))
            relu.meta = dict(node.meta)
            node.replace_all_uses_with(relu)
            node.graph.erase_node(node)


def _write_layers(graph_module: fx.GraphModule) -> None:
    graph = graph_module.graph
    made: list[tuple[str, nn.Module, str]] = []  # path of the module with the weight, layer, path of the layer
    found = [(node, _layer(node, graph_module)) for node in graph.nodes if node.op == "call_function"]
    for node, layer in found:  # all values are known before the first module is replaced
        if layer is None:
            continue
        module, owner = layer
        path = next((path for at, same, path in made if at == owner and _are_equal(module, same)), None)
        if path is None:
            path = _place(graph_module, owner, node.name)
            graph_module.set_submodule(path, module)
            made.append((owner, module, path))
        with graph.inserting_before(node):
            call = graph.call_module(path, (argument(node, 0, "input"),))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    if made:
        read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
        for node in reversed(graph.nodes):
            if not node.users and node.op in ("get_attr", "call_function", "call_method"):
                graph.erase_node(node)
        read -= {str(node.target) for node in graph.nodes if node.op == "get_attr"}
        _delete(graph_module, read - {f"{path}.{name}" for _, _, path in made for name in ("weight", "bias")})


def _delete(graph_module: fx.GraphModule, attributes: Iterable[str]) -> None:
    """Remove parameters and buffers, which the layers that were made of them have now."""
    for attribute in attributes:
        owner, _, name = attribute.rpartition(".")
        module = graph_module.get_submodule(owner)
        for store in (module._parameters, module._buffers):
            store.pop(name, None)


def _are_equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers are two calls of one."""
    ours, theirs = one.state_dict(), other.state_dict()
    return repr(one) == repr(other) and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def _layer(node: fx.Node, graph_module: fx.GraphModule) -> tuple[nn.Module, str] | None:
    """The module of a functional layer with constant weights, and the path of the module that holds them."""
    if node.target not in _LAYERS:
        return None
    cls, parameters = _LAYERS[node.target]
    origins: list[str] = []
    weight = _constant(argument(node, 1, "weight"), graph_module, origins)
    bias_of = argument(node, 2, "bias")
    bias = _constant(bias_of, graph_module, origins)
    if weight is None or (bias_of is not None and bias is None) or weight.ndim != (2 if cls is nn.Linear else 4):
        return None
    values = {name: argument(node, place, name, default) for place, (name, default) in enumerate(parameters.items(), 3)}
    if any(isinstance(each, fx.Node) for each in values.values()):
        return None
    outputs, inputs = weight.shape[:2]
    if cls is nn.Conv2d:
        inputs *= values["groups"]
    elif cls is nn.ConvTranspose2d:
        outputs, inputs = inputs * values["groups"], outputs
    sizes = () if cls is nn.Linear else (tuple(weight.shape[2:]),)
    module = cls(inputs, outputs, *sizes, bias=bias is not None, **values, device="meta")
    module.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return module.eval(), origins[0].rpartition(".")[0]


def _constant(value: Any, graph_module: fx.GraphModule, origins: list[str]) -> Tensor | None:
    """What a node always gives, if that is a tensor; ``origins`` gets the attributes that it is made of."""
    if not isinstance(value, fx.Node):
        return None
    if value.op == "get_attr":
        owner, _, name = str(value.target).rpartition(".")
        found = getattr(graph_module.get_submodule(owner), name)
        origins.append(str(value.target))
        return found if isinstance(found, Tensor) else None
    if value.op not in ("call_function", "call_method"):
        return None
    known = {source: _constant(source, graph_module, origins) for source in value.all_input_nodes}
    if not known or any(each is None for each in known.values()):
        return None
    args = fx.node.map_arg(value.args, lambda each: known[each])
    kwargs = fx.node.map_arg(value.kwargs, lambda each: known[each])
    with torch.no_grad():
        if value.op == "call_method":
            result = getattr(args[0], str(value.target))(*args[1:], **kwargs)
        else:
            result = value.target(*args, **kwargs)  # type: ignore[operator]
    if not isinstance(result, Tensor):
        return None
    trainable = any(each is not None and each.requires_grad for each in known.values())
    return result.detach().clone().requires_grad_(trainable and result.is_floating_point())


def _place(graph_module: fx.GraphModule, owner: str, name: str) -> str:
    """Path for the module of a functional layer: that of the module which holds its weight, if nothing calls it."""
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    children = any(True for _ in graph_module.get_submodule(owner).children())
    if owner and not children and owner not in called:
        return owner
    place, count = f"{owner}.{name}" if owner else name, 0
    taken = {path for path, _ in graph_module.named_modules()} | set(dir(graph_module.get_submodule(owner)))
    while place in taken or place.rpartition(".")[2] in taken:
        count += 1
        place = f"{owner}.{name}_{count}" if owner else f"{name}_{count}"
    return place
