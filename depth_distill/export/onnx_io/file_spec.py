"""Specification that the ONNX files of one network share."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.opsets.changes import OLDEST
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.target.target import NpuTarget

OUTPUT_NAME = "codes"
OPSET = 19  # the newest that all tested tool chains read
OLDEST_OF_TORCH = 18  # torch's exporter writes nothing older: for 13 it silently writes 18


@dataclass(frozen=True)
class FileSpec:
    """Input, outputs and operator version of an ONNX file.

    Attributes:
        height: height of the image, which is the input ``image`` of shape ``(1, 3, H, W)``.
        width: width of the image.
        opset: version of the ONNX operators.
        output_names: one name per tensor that the network returns.
        uint8_input: whether ``image`` is uint8 in the file; for a network after the pass ``uint8_input``, which takes
            pixels.

    Raises:
        ConfigError: the opset is too old to be written, or does not exist yet.
    """

    height: int
    width: int
    opset: int = OPSET
    output_names: tuple[str, ...] = (OUTPUT_NAME,)
    uint8_input: bool = False

    def __post_init__(self) -> None:
        require_opset(self.opset)

    @classmethod
    def like(
        cls,
        image: Tensor,
        opset: int = OPSET,
        output_names: Sequence[str] = (OUTPUT_NAME,),
        uint8_input: bool = False,
    ) -> "FileSpec":
        """The spec of a file that takes an image of this shape.

        Raises:
            ConfigError: the shape is not ``(1, 3, H, W)``, or the opset is too old to be written.
        """
        if image.ndim != 4 or image.shape[:2] != (1, 3):
            raise ConfigError(f"example_image: received the shape {tuple(image.shape)}, expected (1, 3, H, W)")
        return cls(image.shape[2], image.shape[3], opset, tuple(output_names), uint8_input)

    @classmethod
    def of(cls, interface: Interface, opset: int = OPSET) -> "FileSpec":
        """The spec of the files of a network that a recipe prepared."""
        inputs, outputs = interface.inputs, interface.outputs
        return cls(inputs.height, inputs.width, opset, outputs.names, inputs.uint8)

    @property
    def example(self) -> Tensor:
        """A float input of the network."""
        return torch.zeros(1, 3, self.height, self.width)


def require_opset(opset: int) -> None:
    """Require an opset that can be written.

    Raises:
        ConfigError: it is too old, or does not exist yet.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise ConfigError(f"opset: received {opset}, expected {OLDEST} to {newest}, the newest of the installed onnx")


def opset_for(target: NpuTarget) -> int:
    """The newest opset up to 19, the default, that the target reads.

    For a target that reads only opsets before 9, it is 9, the oldest that can be written; the operator check reports
    this.
    """
    newest = target.operators.max_opset
    return OPSET if newest is None else max(OLDEST, min(OPSET, newest))
