"""Other outputs: before the sigmoid, or one tensor per code."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.interface import OutputLayout, output_layout
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult


@dataclass(frozen=True)
class Logits(Pass):
    """End before the sigmoid, which the host then computes, see :func:`drop_sigmoid`."""

    name: ClassVar[str] = "logits"

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a network with several outputs, or without its sigmoid already."""
        outputs = context.interface.outputs
        if len(outputs.names) > 1 or outputs.logits:
            raise ConfigError("expected a network with one output and its sigmoid: put logits before separate_outputs")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`drop_sigmoid`."""
        outputs = output_layout(context.interface.codec, separate=False, logits=True)
        report = PassReport("the network ends before its sigmoid")
        return PassResult(drop_sigmoid(graph), report, replace(context.interface, outputs=outputs))


@dataclass(frozen=True)
class SeparateOutputs(Pass):
    """Return one tensor per code, see :func:`separate_outputs`."""

    name: ClassVar[str] = "separate_outputs"

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a network with a single code, or with several outputs already."""
        if context.interface.codec.channels == 1 or len(context.interface.outputs.names) > 1:
            raise ConfigError("expected a network with several codes in one output")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`separate_outputs`."""
        outputs = output_layout(context.interface.codec, True, context.interface.outputs.logits)
        report = PassReport(f"{len(outputs.names)} outputs: {', '.join(outputs.names)}")
        return PassResult(separate_outputs(graph, outputs), report, replace(context.interface, outputs=outputs))


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
