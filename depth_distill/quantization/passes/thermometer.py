"""Replace a single code by thermometer codes, for a finer 8-bit output without training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from depth_distill.codecs import HostSingle, HostThermometer
from depth_distill.quantization.interface import output_layout
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.passes.single_ending import (
    require_single_code,
    single_ending,
    unfused_note,
    with_clips,
)


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
        require_single_code(context.interface)

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`thermometer`."""
        single = context.interface.codec
        assert isinstance(single, HostSingle)
        converted, codec = thermometer(graph, single, self.num_codes)
        interface = replace(context.interface, outputs=output_layout(codec), codec=codec)
        return PassResult(converted, PassReport(f"codec: {codec}{unfused_note(context.target)}"), interface)


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
    ending = single_ending(graph_module)
    codec = HostThermometer(single.depth_range, single.encoding, num_codes, "uniform" if ending.clips else "logit")
    return with_clips(graph_module, *thermometer_filter(ending.conv.weight, ending.conv.bias, codec.knots)), codec


def thermometer_filter(weight: Tensor, bias: Tensor | None, ends: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weight and bias that compute all codes ``(x - x_k) / (x_k+1 - x_k)`` of one filter's output ``x``, in float64."""
    knots = torch.tensor(ends, dtype=torch.float64, device=weight.device)
    widths = knots.diff()
    shift = 0.0 if bias is None else bias.detach().double()
    scaled = weight.detach().double() / widths.view(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight.dtype), ((shift - knots[:-1]) / widths).to(weight.dtype)
