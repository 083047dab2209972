"""What leaves the network in the file: which named outputs, and how the host puts them together to codes."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from depth_distill.codecs import HostCodec, TwoPartCodec
from depth_distill.codecs.arithmetic import saturating_sigmoid
from depth_distill.errors import ConfigError


@dataclass(frozen=True)
class OutputLayout:
    """The outputs of a file, in order.

    Attributes:
        names: one a tensor.
        channels: of each tensor.
        logits: whether the network stops before its sigmoid, which is then the host's.
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]
    logits: bool = False

    def codes(self, outputs: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """Codes ``(B, C, H, W)`` of the outputs: by name, in order, or the only one.

        Raises:
            ConfigError: an output that is missing, or has another number of channels.
        """
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        if not isinstance(outputs, Mapping):
            if len(outputs) != len(self.names):
                raise ConfigError(
                    f"received {len(outputs)} outputs, expected {len(self.names)}: {', '.join(self.names)}"
                )
            outputs = dict(zip(self.names, outputs, strict=True))
        for name, channels in zip(self.names, self.channels, strict=True):
            if name not in outputs:
                raise ConfigError(f"there is no output {name!r}; received {', '.join(outputs) or 'none'}")
            if outputs[name].shape[1] != channels:
                raise ConfigError(f"output {name!r} has {outputs[name].shape[1]} channels, expected {channels}")
        together = torch.cat([outputs[name].float() for name in self.names], dim=1)
        if not self.logits:
            return together
        codes: Tensor = saturating_sigmoid(torch, together)  # the bits of decode.py and decode.h
        return codes


def output_layout(codec: HostCodec, separate: bool | None = None, logits: bool = False) -> OutputLayout:
    """The outputs of a network with this codec.

    Integer and fraction are outputs of their own unless ``separate`` is False; a thermometer's codes are one tensor
    unless it is True.

    Args:
        codec: of the network.
        separate: one output a code.
        logits: stop before the sigmoid.
    """
    suffix = "_logits" if logits else ""
    if isinstance(codec, TwoPartCodec) and separate is not False:
        return OutputLayout((f"integer{suffix}", f"fractional{suffix}"), (1, 1), logits)
    if separate and codec.channels > 1:
        return OutputLayout(tuple(f"code_{k}{suffix}" for k in range(codec.channels)), (1,) * codec.channels, logits)
    return OutputLayout(("logits" if logits else "codes",), (codec.channels,), logits)


def named_layout(codec: HostCodec, names: Sequence[str]) -> OutputLayout:
    """The layout that :func:`output_layout` calls by these names, for a file whose bundle is not there.

    A single output of any other name is taken for the codes.

    Raises:
        ConfigError: there are several, and no layout of this codec has them.
    """
    layouts = [output_layout(codec, separate, logits) for separate in (None, False, True) for logits in (False, True)]
    for layout in layouts:
        if layout.names == tuple(names):
            return layout
    if len(names) == 1:
        return OutputLayout((names[0],), (codec.channels,))
    wanted = " or ".join(dict.fromkeys(", ".join(layout.names) for layout in layouts))
    raise ConfigError(f"there are the outputs {', '.join(names)}, expected those of {codec}: {wanted}")


def drop_sigmoid(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy that ends before its sigmoid.

    Raises:
        ConfigError: it does not end in one.
    """
    dropped = copy.deepcopy(graph_module)
    ending = _ending(dropped)
    module = dropped.get_submodule(str(ending.target)) if ending.op == "call_module" else None
    if not isinstance(module, nn.Sigmoid):
        raise ConfigError(f"logits: the network ends in {ending.target}, not in a sigmoid; leave the option out")
    ending.replace_all_uses_with(ending.all_input_nodes[0])
    dropped.graph.erase_node(ending)
    dropped.delete_all_unused_submodules()
    dropped.graph.lint()
    dropped.recompile()
    return dropped


def separate_outputs(graph_module: fx.GraphModule, layout: OutputLayout) -> fx.GraphModule:
    """A copy that returns one tensor an output, each from a convolution of its own.

    Slicing one tensor apart would cost an operator that NPUs restrict, and leave all codes one scale. Where the codes
    are put together by a concat of as many tensors, that is left out instead.

    Args:
        graph_module: a traced float network that ends in a convolution and, if anything, an activation.
        layout: the outputs.

    Raises:
        ConfigError: another ending, or another number of channels.
    """
    apart = copy.deepcopy(graph_module)
    graph = apart.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    ending = _ending(apart)
    if ending.op == "call_function" and ending.target is torch.cat:
        parts = ending.args[0]
        if len(parts) != len(layout.names):  # type: ignore[arg-type]
            raise ConfigError(f"the network puts {len(parts)} tensors together, expected {len(layout.names)}")  # type: ignore[arg-type]
        output.args = (tuple(parts),)  # type: ignore[arg-type]
        graph.erase_node(ending)
    else:
        activation = None if _is_conv(apart, ending) else ending
        conv_node = ending if activation is None else activation.all_input_nodes[0]
        conv = apart.get_submodule(str(conv_node.target)) if _is_conv(apart, conv_node) else None
        if not isinstance(conv, nn.Conv2d) or conv.out_channels != sum(layout.channels) or conv.groups != 1:
            raise ConfigError(
                f"separate outputs: the network ends in {ending.target}, expected a convolution to "
                f"{sum(layout.channels)} channels and at most one activation behind it"
            )
        around = str(conv_node.target).rpartition(".")[0]
        first, parts = 0, []
        for name, channels in zip(layout.names, layout.channels, strict=True):
            part = copy.deepcopy(conv)
            part.out_channels = channels
            part.weight = nn.Parameter(conv.weight.detach()[first : first + channels].clone())
            if conv.bias is not None:
                part.bias = nn.Parameter(conv.bias.detach()[first : first + channels].clone())
            first += channels
            path = f"{around}.{name}" if around else name
            apart.add_submodule(path, part)
            with graph.inserting_before(output):
                node = graph.call_module(path, conv_node.args)
                if activation is not None:
                    apart.add_submodule(f"{path}_output", copy.deepcopy(apart.get_submodule(str(activation.target))))
                    node = graph.call_module(f"{path}_output", (node,))
            parts.append(node)
        output.args = (tuple(parts),)
        for node in (ending, conv_node):
            if not node.users and node in graph.nodes:
                graph.erase_node(node)
    apart.delete_all_unused_submodules()
    graph.lint()
    apart.recompile()
    return apart


def _ending(graph_module: fx.GraphModule) -> fx.Node:
    """The node whose value is returned."""
    (output,) = (node for node in graph_module.graph.nodes if node.op == "output")
    (ending,) = output.all_input_nodes
    return ending


def _is_conv(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph_module.get_submodule(str(node.target)), nn.Conv2d)
