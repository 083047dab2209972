"""What a file takes: normalized floats, or pixels that its first convolution normalizes."""

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.float_onnx import INPUT_NAME

_WHITE = 255.0


@dataclass(frozen=True)
class InputLayout:
    """The one input of a file, ``(1, 3, H, W)`` RGB.

    Attributes:
        height: of the image.
        width: of the image.
        mean: of each colour channel, in [0, 1].
        std: of each colour channel.
        uint8: whether it takes pixels, 0 to 255, instead of normalized float32.
    """

    height: int
    width: int
    mean: Sequence[float]
    std: Sequence[float]
    uint8: bool = False

    def pixels(self, images: Tensor) -> Tensor:
        """The uint8 pixels that normalized images were made of."""
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (self.mean, self.std))
        return ((images * std + mean) * _WHITE).round().clamp(0, _WHITE).to(torch.uint8)

    def prepare(self, images: Tensor) -> Tensor:
        """What the file takes, of normalized images ``(B, 3, H, W)``."""
        return self.pixels(images) if self.uint8 else images

    def to_dict(self) -> dict[str, Any]:
        """For the manifest: how to make the input of a picture."""
        return {
            "name": INPUT_NAME,
            "shape": [1, 3, self.height, self.width],
            "layout": "NCHW",
            "dtype": "uint8" if self.uint8 else "float32",
            "colour_order": "RGB",
            "resize": {"height": self.height, "width": self.width, "method": "bilinear with antialiasing, on uint8"},
            "normalization": None if self.uint8 else "(pixel / 255 - mean) / std, a channel at a time",
            "mean": list(self.mean),
            "std": list(self.std),
        }


def fold_normalization(graph_module: fx.GraphModule, mean: Sequence[float], std: Sequence[float]) -> fx.GraphModule:
    """A copy that takes pixels, 0 to 255 as floats, and normalizes them in its first convolution.

    The mean cannot go into the bias: a convolution that pads with zeros would then see black instead of grey around
    the image. So the image gets a fourth channel, 255 everywhere, which carries the mean; it is padded with zeros like
    the others, and the border is exact: ``w' = w / (255 std)`` and, of the fourth channel, ``-sum_c w'_c mean_c``. Its
    weights are of the size of the others, so that one scale suits all.

    Args:
        graph_module: a traced float network whose image is read by one convolution only.
        mean: of each colour channel, in [0, 1].
        std: of each colour channel.

    Raises:
        ConfigError: something else than one convolution without groups reads the image.
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
    scaled = weight / (_WHITE * torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1))
    of_white = -(scaled * torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)).sum(1, keepdim=True)
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
