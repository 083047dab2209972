"""Replace a single code by thermometer codes, for a finer 8-bit output without training."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx, nn

from depth_distill.codecs import HostSingle, HostThermometer
from depth_distill.errors import ConfigError
from depth_distill.quantization.interface import output_layout
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult


@dataclass(frozen=True)
class Thermometer(Pass):
    """Divide a single code among several, see :func:`thermometer`.

    Args:
        num_codes: 2, 4, 8 or 16. With a sigmoid, 2 codes are coarser than one; see docs/heads.md.
    """

    name: ClassVar[str] = "thermometer"

    num_codes: Literal[2, 4, 8, 16] = 8

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse codecs other than a single code."""
        if not isinstance(context.interface.codec, HostSingle) or context.interface.outputs.logits:
            raise ConfigError(f"expected a network that returns a single code, received {context.interface.codec}")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`thermometer`."""
        single = context.interface.codec
        assert isinstance(single, HostSingle)
        converted, codec = thermometer(graph, single, self.num_codes)
        interface = replace(context.interface, outputs=output_layout(codec), codec=codec)
        return PassResult(converted, PassReport(f"codec: {codec}"), interface)


def thermometer(
    graph_module: fx.GraphModule, single: HostSingle, num_codes: int
) -> tuple[fx.GraphModule, HostThermometer]:
    """A copy that returns the same depth in ``num_codes`` codes; for a head that clips, each is that many times finer.

    The last convolution is repeated with other factors and biases, and clipped. A sigmoid cannot stay in the graph: its
    own output is rounded to 8 bits, and codes computed from it would be no finer. So the codes divide the range of the
    *pre-activation*, and the sigmoid moves into the codec, on the host. Float depth is that of the network, to 1e-5 of
    the code range.

    Args:
        graph_module: a traced float network that ends in a convolution to one channel and a sigmoid or a clip to
            [0, 1].
        single: codec of the network.
        num_codes: 2, 4, 8 or 16.

    Raises:
        ConfigError: the network ends otherwise.
    """
    converted = copy.deepcopy(graph_module)
    (output,) = (node for node in converted.graph.nodes if node.op == "output")
    ending = output.all_input_nodes[0]
    activation = _module(converted, ending)
    conv_node = ending.all_input_nodes[0] if ending.all_input_nodes else ending
    conv = _module(converted, conv_node)
    clips = isinstance(activation, nn.Hardtanh) and (activation.min_val, activation.max_val) == (0.0, 1.0)
    if not isinstance(conv, nn.Conv2d) or conv.out_channels != 1 or not (clips or isinstance(activation, nn.Sigmoid)):
        raise ConfigError(
            f"the network ends in {ending.target}, expected a convolution to one channel and a sigmoid or a clip to "
            "[0, 1] behind it"
        )
    codec = HostThermometer(single.depth_range, single.encoding, num_codes, "uniform" if clips else "logit")
    weight, bias = thermometer_filter(conv.weight, conv.bias, codec)
    repeated = copy.deepcopy(conv)
    repeated.out_channels = num_codes
    repeated.weight, repeated.bias = nn.Parameter(weight), nn.Parameter(bias)
    converted.set_submodule(str(conv_node.target), repeated)
    converted.set_submodule(str(ending.target), nn.Hardtanh(0.0, 1.0))
    converted.recompile()
    return converted, codec


def thermometer_filter(weight: Tensor, bias: Tensor | None, codec: HostThermometer) -> tuple[Tensor, Tensor]:
    """Weight and bias that compute all codes ``(x - x_k) / (x_k+1 - x_k)`` of one filter's output ``x``, in float64."""
    knots = torch.tensor(codec.knots, dtype=torch.float64, device=weight.device)
    widths = knots.diff()
    shift = 0.0 if bias is None else bias.detach().double()
    scaled = weight.detach().double() / widths.view(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight.dtype), ((shift - knots[:-1]) / widths).to(weight.dtype)


def _module(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
