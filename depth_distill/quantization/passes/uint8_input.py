"""Take pixels as the input, which the first convolution normalizes."""

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.interface import RawInput
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult

_WHITE = 255.0


@dataclass(frozen=True)
class Uint8Input(Pass):
    """Fold the normalization of pixels into the first convolution, see :func:`fold_normalization`."""

    name: ClassVar[str] = "uint8_input"

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a network that takes pixels already or unknown values, and targets with symmetric activations."""
        if isinstance(context.interface.inputs, RawInput):
            raise ConfigError("the input of this network is fed as it is: how it was normalized is not known")
        if context.interface.inputs.uint8:
            raise ConfigError("the network takes pixels already")
        if context.target.activations.symmetric:
            raise ConfigError(f"{context.target.name} has symmetric activations, which lose a bit of each pixel")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`fold_normalization`."""
        inputs = context.interface.inputs
        folded = fold_normalization(graph, inputs.mean, inputs.std)
        interface = replace(context.interface, inputs=replace(inputs, uint8=True))
        return PassResult(folded, PassReport("normalization folded into the first convolution"), interface)


def fold_normalization(graph_module: fx.GraphModule, mean: Sequence[float], std: Sequence[float]) -> fx.GraphModule:
    """A copy that takes pixels, floats from 0 to 255, and normalizes them in its first convolution.

    The mean cannot go into the bias: a convolution that pads with zeros would then see black instead of grey around
    the image. So the image gets a fourth channel, 255 everywhere, which carries the mean and is padded with zeros like
    the others. The border is then exact: ``w' = w / (255 std)`` and, for the fourth channel, ``-sum_c w'_c mean_c``.
    Its weights are about as large as the others, so that one scale suits all.

    Args:
        graph_module: a traced float network whose image is read by one convolution only.
        mean: mean per colour channel, in [0, 1].
        std: standard deviation per colour channel, in [0, 1].

    Raises:
        ConfigError: the image is read by anything but one convolution without groups.
    """
    folded = copy.deepcopy(graph_module)
    (image,) = (node for node in folded.graph.nodes if node.op == "placeholder")
    readers = list(image.users)
    layer = folded.get_submodule(str(readers[0].target)) if readers[0].op == "call_module" else None
    if len(readers) != 1 or not isinstance(layer, nn.Conv2d) or layer.groups != 1 or layer.padding_mode != "zeros":
        raise ConfigError(
            "uint8 input: the image must be read by one convolution without groups, padded with zeros, for the "
            f"normalization to be folded into; it is read by {', '.join(str(node.target) for node in readers)}"
        )
    weight = layer.weight.detach().double()
    scaled = weight / (_WHITE * weight.new_tensor(std, dtype=torch.float64).view(1, -1, 1, 1))
    of_white = -(scaled * weight.new_tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)).sum(1, keepdim=True)
    wider = nn.Conv2d(
        layer.in_channels + 1,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )
    wider.weight = nn.Parameter(torch.cat([scaled, of_white], dim=1).to(layer.weight.dtype))
    wider.bias = layer.bias
    folded.set_submodule(str(readers[0].target), wider)
    with folded.graph.inserting_after(image):
        channel = folded.graph.call_function(operator.getitem, (image, (slice(None), slice(0, 1))))
    with folded.graph.inserting_after(channel):
        white = folded.graph.call_function(torch.full_like, (channel, _WHITE))
    with folded.graph.inserting_after(white):
        together = folded.graph.call_function(torch.cat, ([image, white], 1))
    readers[0].replace_input_with(image, together)
    folded.graph.lint()
    folded.recompile()
    return folded
