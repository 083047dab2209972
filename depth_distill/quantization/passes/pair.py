"""Replace a single code by two, 16 times as fine together, without training."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx, nn

from depth_distill.codecs import HostPair, HostSingle
from depth_distill.codecs.pair import DEFAULT_CLIPS, MOST_CLIPS, whole_metres
from depth_distill.errors import ConfigError
from depth_distill.quantization.interface import output_layout
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.passes.single_ending import (
    require_single_code,
    single_ending,
    unfused_note,
    with_clips,
)
from depth_distill.quantization.passes.surgery.edits import finish, free_name, insert_module
from depth_distill.quantization.passes.thermometer import thermometer_filter

CARRY_SLOPE = 128.0  # a carry is decided within 1/128 of a clip: half of it is one step of 8 bits


@dataclass(frozen=True)
class Pair(Pass):
    """Return a whole number of clips and a fraction of one instead of a single code, see :func:`pair`.

    Args:
        num_clips: number of clips, 2 to 32. Unless given, a head that clips linear depth has one per whole metre, if
            these are 2 to 16; any other has 16.
    """

    name: ClassVar[str] = "pair"

    num_clips: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_clips is not None and not 2 <= self.num_clips <= MOST_CLIPS:
            raise ConfigError(f"num_clips: received {self.num_clips}, expected 2 to {MOST_CLIPS}")

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse codecs other than a single code."""
        require_single_code(context.interface)

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`pair`."""
        single = context.interface.codec
        assert isinstance(single, HostSingle)
        converted, codec = pair(graph, single, self.num_clips)
        interface = replace(context.interface, outputs=output_layout(codec), codec=codec)
        summary = f"codec: {codec}; 2 outputs: integer, fractional{unfused_note(context.target)}"
        return PassResult(converted, PassReport(summary), interface)


def pair(
    graph_module: fx.GraphModule, single: HostSingle, num_clips: int | None = None
) -> tuple[fx.GraphModule, HostPair]:
    """A copy that returns the same depth in two outputs, ``integer`` and ``fractional``.

    The last convolution is repeated ``K`` times, as for a thermometer (see
    :func:`~depth_distill.quantization.passes.thermometer.thermometer`), but every other clip falls instead of rising:
    ``t_k`` for even ``k``, ``1 - t_k`` for odd ``k``. Three 1 x 1 convolutions follow:

    * ``fractional``: the sum of all clips minus ``K // 2``, which is ``t_0 - t_1 + t_2 - ...``, a triangle wave;
    * ``carry``: ``c_k = clip(128 (t_k-1 + t_k - 1) + 1/2, 0, 1)`` for ``k`` from 1, a step where one clip ends and the
      next begins;
    * ``integer``: the mean of the carries.

    All clips but one are 0 or 1, which 8 bits represent exactly, and all weights of a sum are equal, so that any
    quantizer represents them exactly: in INT8 both sums are exact, ``fractional`` in steps of 1/255 and ``integer`` in
    whole carries. Without the carries (``integer`` as the plain sum of the clips), rounding of ``integer`` would mirror
    depth where the triangle turns, by up to 1/16 of a clip for 16 clips. The range that min/max calibration gives to
    ``integer`` ends at the farthest clip that begins on a calibration image; its step is then no whole part of a carry,
    which a decoder that rounds to whole carries does not notice.

    Args:
        graph_module: a traced float network that ends in a convolution to one channel and a sigmoid or a clip to
            [0, 1].
        single: codec of the network.
        num_clips: number of clips; see :class:`Pair`.

    Raises:
        ConfigError: the network ends otherwise.
    """
    ending = single_ending(graph_module)
    codec = pair_codec(single, ending.clips, num_clips)
    weight, bias = thermometer_filter(ending.conv.weight, ending.conv.bias, codec.knots)
    weight[1::2], bias[1::2] = -weight[1::2], 1.0 - bias[1::2]
    converted = with_clips(graph_module, weight, bias)
    (output,) = (node for node in converted.graph.nodes if node.op == "output")
    (clips,) = output.all_input_nodes
    around = str(ending.conv_node.target).rpartition(".")[0]

    def append(name: str, module: nn.Module, source: fx.Node) -> fx.Node:
        path = free_name(converted, f"{around}.{name}" if around else name)
        return insert_module(converted, path, module.to(weight), source, output)

    count = codec.num_clips
    carry = append("carry_clip", nn.Hardtanh(0.0, 1.0), append("carry", _carry(count), clips))
    integer = append("integer", _sum(count - 1, 1 / (count - 1)), carry)
    output.args = ((integer, append("fractional", _sum(count, 1.0, -(count // 2)), clips)),)
    return finish(converted), codec


def pair_codec(single: HostSingle, clips: bool, num_clips: int | None = None) -> HostPair:
    """The codec of a pair that is made of a single head.

    Args:
        single: codec of the head.
        clips: whether the head clips; otherwise it has a sigmoid.
        num_clips: see :class:`Pair`.

    Raises:
        ConfigError: a number of clips that does not fit.
    """
    if not clips:
        return HostPair(single.depth_range, single.encoding, num_clips, "logit")
    metres = whole_metres(single.depth_range)
    if single.encoding == "linear" and 2 <= metres <= DEFAULT_CLIPS and num_clips in (None, metres):
        return HostPair(single.depth_range, "linear", metres, "metres")
    return HostPair(single.depth_range, single.encoding, num_clips, "uniform")


def _carry(count: int) -> nn.Conv2d:
    """``128 (t_k-1 + t_k - 1) + 1/2`` of neighbouring clips, of which one is given as ``1 - t``."""
    carry = nn.Conv2d(count, count - 1, 1)
    with torch.no_grad():
        nn.init.zeros_(carry.weight)
        for k in range(1, count):
            for clip in (k - 1, k):
                carry.weight[k - 1, clip] = -CARRY_SLOPE if clip % 2 else CARRY_SLOPE
        nn.init.constant_(carry.bias, 0.5)  # type: ignore[arg-type]
    return carry


def _sum(count: int, weight: float, bias: float | None = None) -> nn.Conv2d:
    made = nn.Conv2d(count, 1, 1, bias=bias is not None)
    nn.init.constant_(made.weight, weight)
    if made.bias is not None:
        nn.init.constant_(made.bias, bias)  # type: ignore[arg-type]
    return made
