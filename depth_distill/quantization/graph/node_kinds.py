"""The kind of each node of a traced network: a layer, an activation, a move of values, or other arithmetic."""

import operator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.substitutions import Substituted
from depth_distill.quantization.target.target import ActivationName

Kind = Literal["input", "output", "layer", "activation", "add", "concat", "move", "identity", "compute", "not_a_tensor"]
"""``layer`` has a weight; ``move`` returns values of its input and no others; ``identity`` returns its input;
``compute`` is any other arithmetic."""


@dataclass(frozen=True)
class Operation:
    """The kind of one node; ``activation`` is its name if ``kind`` is ``"activation"``, else None."""

    kind: Kind
    activation: ActivationName | None = None


_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_UNFOLDED = (nn.modules.batchnorm._BatchNorm,)
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)
_MOVES = (
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Flatten,
    nn.Unflatten,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.ZeroPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
)
_ACTIVATIONS: dict[type[nn.Module], ActivationName] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardtanh: "clip",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.ELU: "elu",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.GELU: "gelu",
}

_ADDS = {operator.add, operator.iadd, torch.add}
_CONCATS = {torch.cat, torch.concat}
_IDENTITY_FUNCTIONS = {F.dropout, F.dropout2d}
_MOVE_FUNCTIONS = {
    operator.getitem, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.chunk, torch.split,
    torch.squeeze, torch.unsqueeze, F.max_pool2d, F.pixel_shuffle, F.pixel_unshuffle, F.pad,
}  # fmt: skip
_ACTIVATION_FUNCTIONS: dict[Any, ActivationName] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu6",
    F.hardtanh: "clip",
    torch.clamp: "clip",
    torch.clip: "clip",
    F.leaky_relu: "leaky_relu",
    F.elu: "elu",
    F.silu: "silu",
    F.hardswish: "hardswish",
    F.hardsigmoid: "hardsigmoid",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    F.gelu: "gelu",
}
_LAYER_FUNCTIONS = {F.conv2d, torch.conv2d, F.linear, F.conv_transpose2d, torch.conv_transpose2d}

_ADD_METHODS = {"add", "add_"}
_IDENTITY_METHODS = {"contiguous", "clone", "detach", "to", "float"}
_MOVE_METHODS = {
    "view", "reshape", "flatten", "permute", "transpose", "chunk", "split", "squeeze", "unsqueeze", "expand"
}  # fmt: skip
_ACTIVATION_METHODS: dict[str, ActivationName] = {
    "relu": "relu", "relu_": "relu", "clamp": "clip", "clamp_": "clip", "clip": "clip", "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid", "tanh": "tanh", "tanh_": "tanh",
}  # fmt: skip
_SHAPE_METHODS = {"size", "dim", "numel"}
_UNKNOWN = "<unknown>"


def classify(graph_module: fx.GraphModule) -> dict[fx.Node, Operation]:
    """The kind of every node, in graph order.

    Raises:
        ConfigError: a batch norm is not folded, or a weight belongs to no module.
    """
    operations: dict[fx.Node, Operation] = {}
    for node in graph_module.graph.nodes:
        operations[node] = _classify(node, graph_module, operations)
    return operations


def activation_of(graph_module: fx.GraphModule, node: fx.Node) -> ActivationName | None:
    """The activation that a call computes, where the placement of quantizers has rules for it."""
    if node.op == "call_module":
        return _activation_of_module(graph_module.get_submodule(str(node.target)))
    return _ACTIVATION_FUNCTIONS.get(node.target) or _ACTIVATION_METHODS.get(cast(str, node.target))


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a function or method, which a trace has by position or by name, as the caller wrote it."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def operation_name(graph_module: fx.GraphModule, node: fx.Node) -> str:
    """Name of a node's class, function or method in lower case without underscores: ``hardsigmoid``, ``mul``.

    A class or function of anybody else may have any name; of these it is ``<unknown>``.
    """
    if node.op == "call_module":
        callee: Any = type(graph_module.get_submodule(str(node.target)))
    elif node.target is getattr:
        callee = str(node.args[1])
    elif isinstance(node.target, str):
        callee = node.target if node.op == "call_method" else node.op
    else:
        callee = node.target
    if isinstance(callee, str):
        name = callee
    else:
        name = getattr(callee, "__name__", str(callee)) if _is_known(callee) else _UNKNOWN
    return name.lower().replace("_", "")


def upper_bound(graph_module: fx.GraphModule, node: fx.Node) -> float | None:
    """Highest value of an activation that is a ReLU below it: of ReLU6, and of a clip from 0; None of any other."""
    name = operation_name(graph_module, node)
    if name == "relu6":
        return 6.0
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return float(module.max_val) if type(module) is nn.Hardtanh and module.min_val == 0 else None


def scoped_name(node: fx.Node) -> str:
    """Dotted name of a node: the path of its module, or the path of the module around it and the function's name."""
    if "scoped_name" in node.meta:  # of a function that is substituted
        return str(node.meta["scoped_name"])
    if node.op in ("call_module", "placeholder", "get_attr", "output"):
        return str(node.target)
    function = node.target if isinstance(node.target, str) else node.target.__name__
    around = list(node.meta.get("nn_module_stack", {}).values())
    scope = around[-1][0] if around else ""
    return f"{scope}.{function}" if scope else function


def _classify(node: fx.Node, graph_module: fx.GraphModule, operations: dict[fx.Node, Operation]) -> Operation:
    if node.op == "placeholder":
        return Operation("input")
    if node.op == "output":
        return Operation("output")
    if node.op == "get_attr":
        return Operation("not_a_tensor")  # a constant: no activation, and weights belong to modules
    if node.op != "call_module" and (
        node.target is getattr
        or node.target in _SHAPE_METHODS
        or all(operations[each].kind == "not_a_tensor" for each in node.all_input_nodes)
    ):
        return Operation("not_a_tensor")
    if node.op == "call_module":
        return _classify_module(node, graph_module.get_submodule(str(node.target)))
    if node.target in _LAYER_FUNCTIONS:
        raise ConfigError(f"{scoped_name(node)}: a functional convolution or linear layer; use its nn.Module instead")
    if node.target in (F.interpolate, F.upsample):
        return Operation("move" if _is_nearest(argument(node, 3, "mode", "nearest")) else "compute")
    if node.target is F.pad and argument(node, 3, "value"):
        return Operation("compute")
    tables: tuple[tuple[set[Any], Kind], ...] = (
        (_ADDS | _ADD_METHODS, "add"),
        (_CONCATS, "concat"),
        (_IDENTITY_FUNCTIONS | _IDENTITY_METHODS, "identity"),
        (_MOVE_FUNCTIONS | _MOVE_METHODS, "move"),
    )
    for targets, kind in tables:
        if node.target in targets:
            return Operation(kind)
    activation = activation_of(graph_module, node)
    return Operation("activation", activation) if activation else Operation("compute")


def _classify_module(node: fx.Node, module: nn.Module) -> Operation:
    if isinstance(module, _UNFOLDED):
        raise ConfigError(f"{node.target} is a {type(module).__name__}: fold batch norm before fake-quantizing")
    if isinstance(module, _LAYERS):
        return Operation("layer")
    # By the very class: what a class derived from it computes is not known.
    if type(module) in _IDENTITIES:
        return Operation("identity")
    if type(module) in _MOVES:
        return Operation("move")
    if isinstance(module, nn.Upsample):
        return Operation("move" if _is_nearest(module.mode) else "compute")
    activation = _activation_of_module(module)
    return Operation("activation", activation) if activation else Operation("compute")


def _activation_of_module(module: nn.Module) -> ActivationName | None:
    return module.activation if isinstance(module, Substituted) else _ACTIVATIONS.get(type(module))


def _is_known(callee: Any) -> bool:
    """Whether a class or function is torch's or ours, so that its name says what it computes."""
    room = str(getattr(callee, "__module__", None) or "torch")
    if room.split(".")[0] in ("torch", "operator", "_operator", "math", "depth_distill"):
        return True
    return any(getattr(each, callee.__name__, None) is callee for each in (torch, nn.functional))


def _is_nearest(mode: Any) -> bool:
    return mode in ("nearest", "nearest-exact")
