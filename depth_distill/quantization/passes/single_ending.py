"""The end of a network with a single code: its last convolution, and the sigmoid or clip behind it."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.codecs import HostSingle
from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import argument
from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.passes.surgery.edits import (
    called_once,
    finish,
    free_name,
    insert_module,
    module_of,
    place_of,
    take_out,
)
from depth_distill.quantization.target.target import NpuTarget

_SIGMOIDS = (torch.sigmoid, F.sigmoid, "sigmoid")
_CLAMPS = (torch.clamp, torch.clip, "clamp", "clip", F.hardtanh)
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)
_RANK_CHANGES = (torch.squeeze, torch.unsqueeze, "squeeze", "unsqueeze")
_NEAREST = ("nearest", "nearest-exact")


@dataclass(frozen=True)
class SingleEnding:
    """A convolution to one channel and what maps it to [0, 1].

    Attributes:
        conv_node: calls the convolution.
        conv: the convolution, which nothing else calls.
        activation: node of the sigmoid or clip.
        clips: whether it is a clip to [0, 1].
        dropped: nodes without an effect on a map of one channel: identities, axes that go and come back.
    """

    conv_node: fx.Node
    conv: nn.Conv2d
    activation: fx.Node
    clips: bool
    dropped: tuple[fx.Node, ...]


def single_ending(graph_module: fx.GraphModule) -> SingleEnding:
    """The end of a traced network; nearest upsampling may stand in it, because clips change places with it.

    Raises:
        ConfigError: the network ends otherwise.
    """
    (output,) = (node for node in graph_module.graph.nodes if node.op == "output")
    node, activation, dropped = output, None, []
    while True:
        before = node.all_input_nodes
        if len(before) != 1 or len(before[0].users) != 1:
            break
        (node,) = before
        if activation is None and _is_activation(graph_module, node):
            activation = node
        elif _changes_nothing(graph_module, node):
            dropped.append(node)
        elif not _is_nearest(graph_module, node):
            break
    conv = called_once(graph_module, node, nn.Conv2d)
    if activation is None or conv is None or conv.out_channels != 1:
        raise ConfigError(
            f"the network ends in {place_of(node)}, expected a convolution to one channel and a sigmoid or a clip to "
            "[0, 1] behind it"
        )
    return SingleEnding(node, conv, activation, not _is_sigmoid(graph_module, activation), tuple(dropped))


def final_sigmoid(graph_module: fx.GraphModule) -> fx.Node | None:
    """The sigmoid, as a module, function or method, behind which nothing else changes values; None if there is none."""
    (node,) = (node for node in graph_module.graph.nodes if node.op == "output")
    while len(node.all_input_nodes) == 1 and len(node.all_input_nodes[0].users) == 1:
        (node,) = node.all_input_nodes
        if _is_sigmoid(graph_module, node):
            return node
        if not _changes_nothing(graph_module, node) and not _is_nearest(graph_module, node):
            return None
    return None


def with_clips(graph_module: fx.GraphModule, weight: torch.Tensor, bias: torch.Tensor) -> fx.GraphModule:
    """A copy whose last convolution has other filters, each clipped to [0, 1].

    Args:
        graph_module: a traced network that ends as :func:`single_ending` says.
        weight: filters ``(N, C, kH, kW)``.
        bias: ``(N,)``.

    Raises:
        ConfigError: the network ends otherwise.
    """
    converted = copy.deepcopy(graph_module)
    ending = single_ending(converted)
    repeated = copy.deepcopy(ending.conv)
    repeated.out_channels = len(weight)
    repeated.weight, repeated.bias = nn.Parameter(weight), nn.Parameter(bias)
    path = str(ending.conv_node.target)
    converted.set_submodule(path, repeated)
    calls = calls_by_module(converted).get(str(ending.activation.target), ())
    # Not a sigmoid of gates, too; and a method has the name of a module by chance.
    alone = ending.activation.op == "call_module" and len(calls) == 1
    if alone and ending.activation.all_input_nodes == [ending.conv_node]:
        converted.set_submodule(str(ending.activation.target), nn.Hardtanh(0.0, 1.0))
    else:
        name = free_name(converted, f"{path}_clip")
        clip = insert_module(converted, name, nn.Hardtanh(0.0, 1.0), ending.conv_node, ending.conv_node.next)
        ending.conv_node.replace_all_uses_with(clip, delete_user_cb=lambda user: user is not clip)
        take_out(ending.activation, ending.activation.all_input_nodes[0])
    for node in ending.dropped:
        take_out(node, node.all_input_nodes[0])
    return finish(converted)


def require_single_code(interface: Interface) -> None:
    """Require a network to return a single code, not its logit.

    Raises:
        ConfigError: its codec is another, or the host computes its sigmoid.
    """
    if not isinstance(interface.codec, HostSingle) or interface.outputs.logits:
        raise ConfigError(f"expected a network that returns a single code, received {interface.codec}")


def unfused_note(target: NpuTarget) -> str:
    """What a target that does not fuse clips makes of codes that are clipped; empty where it does."""
    if "clip" in target.fused_activations:
        return ""
    return (
        f"; note: {target.name} does not fuse Clip, so 8 bits round all that a code is clipped from, and most of its "
        "finer steps are lost"
    )


def _is_activation(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(graph_module, node)
    if isinstance(module, nn.Hardtanh):
        return (module.min_val, module.max_val) == (0.0, 1.0)
    if node.op != "call_module" and node.target in _CLAMPS:
        low, high = ("min_val", "max_val") if node.target is F.hardtanh else ("min", "max")
        return (argument(node, 1, low), argument(node, 2, high)) == (0, 1)
    return _is_sigmoid(graph_module, node)


def _is_sigmoid(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module_of(graph_module, node), nn.Sigmoid)
    return node.target in _SIGMOIDS


def _changes_nothing(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module_of(graph_module, node), _IDENTITIES)
    return node.target in _RANK_CHANGES and argument(node, 1, "dim") in (1, -3)


def _is_nearest(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return getattr(module_of(graph_module, node), "mode", None) in _NEAREST
    return node.target in (F.interpolate, F.upsample) and argument(node, 3, "mode", "nearest") in _NEAREST
