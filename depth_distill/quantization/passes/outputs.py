"""Change the outputs of a network: logits before the sigmoid, or one tensor per code."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.interface import OutputLayout, output_layout
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.passes.single_ending import final_sigmoid
from depth_distill.quantization.passes.surgery.edits import finish, place_of, take_out


@dataclass(frozen=True)
class Logits(Pass):
    """Remove the sigmoid, which the host then computes, see :func:`drop_sigmoid`."""

    name: ClassVar[str] = "logits"

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a network with several outputs, or whose sigmoid is removed already."""
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
    """A copy without the sigmoid at the end.

    Raises:
        ConfigError: the network does not end in a sigmoid.
    """
    dropped = copy.deepcopy(graph_module)
    sigmoid = final_sigmoid(dropped)
    if sigmoid is None:
        place = place_of(_ending(dropped))
        raise ConfigError(f"logits: the network ends in {place}, not in a sigmoid; leave the pass out")
    take_out(sigmoid, sigmoid.all_input_nodes[0])
    return finish(dropped)


def separate_outputs(graph_module: fx.GraphModule, layout: OutputLayout) -> fx.GraphModule:
    """A copy that returns one tensor per output, each from its own convolution.

    Slicing one tensor would need an operator that NPUs restrict, and all codes would share one scale.

    Args:
        graph_module: a traced float network that ends in a convolution and at most one activation.
        layout: layout of the new outputs.

    Raises:
        ConfigError: the network ends otherwise, or in another number of channels.
    """
    separated = copy.deepcopy(graph_module)
    graph = separated.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    ending = _ending(separated)
    activation = None if _is_conv(separated, ending) or ending.op != "call_module" else ending
    conv_node = ending if activation is None else activation.all_input_nodes[0]
    conv = separated.get_submodule(str(conv_node.target)) if _is_conv(separated, conv_node) else None
    if not isinstance(conv, nn.Conv2d) or conv.out_channels != sum(layout.channels) or conv.groups != 1:
        raise ConfigError(
            f"separate outputs: the network ends in {place_of(ending)}, expected a convolution to "
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
        separated.add_submodule(path, part)
        with graph.inserting_before(output):
            node = graph.call_module(path, conv_node.args)
            if activation is not None:
                module = copy.deepcopy(separated.get_submodule(str(activation.target)))
                separated.add_submodule(f"{path}_output", module)
                node = graph.call_module(f"{path}_output", (node,))
        parts.append(node)
    output.args = (tuple(parts),)
    for node in dict.fromkeys((ending, conv_node)):
        if not node.users:
            graph.erase_node(node)
    separated.delete_all_unused_submodules()
    graph.lint()
    separated.recompile()
    return separated


def _ending(graph_module: fx.GraphModule) -> fx.Node:
    """The node whose value the network returns."""
    (output,) = (node for node in graph_module.graph.nodes if node.op == "output")
    (ending,) = output.all_input_nodes
    return ending


def _is_conv(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph_module.get_submodule(str(node.target)), nn.Conv2d)
