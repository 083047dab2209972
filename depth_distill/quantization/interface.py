"""What a network takes and returns once passes have prepared it: its input, its outputs, and the codec of the host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from depth_distill.codecs import HostCodec, HostTable, HostUnknown, TwoPartCodec
from depth_distill.codecs.arithmetic import saturating_sigmoid
from depth_distill.errors import ConfigError
from depth_distill.types import ResizeMode

INPUT_NAME = "image"
CODES = "codes"
"""Name under which codes are compared, see :meth:`Interface.compared`."""
_WHITE = 255.0


@dataclass(frozen=True)
class InputLayout:
    """The one input of a network, ``(B, 3, H, W)`` RGB.

    Attributes:
        height: height of the image in pixels.
        width: width of the image in pixels.
        mean: mean of each colour channel, in [0, 1].
        std: standard deviation of each colour channel.
        uint8: whether the network takes pixels, 0 to 255, instead of normalized float32.
        name: name of the input.
        resize: how an image of another aspect ratio comes to this size.
    """

    height: int
    width: int
    mean: Sequence[float]
    std: Sequence[float]
    uint8: bool = False
    name: str = INPUT_NAME
    resize: ResizeMode = "crop"

    def pixels(self, images: Tensor) -> Tensor:
        """The uint8 pixels that normalized images were made of."""
        mean, std = (images.new_tensor(each).view(3, 1, 1) for each in (self.mean, self.std))
        return ((images * std + mean) * _WHITE).round().clamp(0, _WHITE).to(torch.uint8)

    def prepare(self, images: Tensor) -> Tensor:
        """The input that corresponds to normalized images ``(B, 3, H, W)``."""
        return self.pixels(images) if self.uint8 else images

    @property
    def range(self) -> tuple[float, float] | None:
        """Lowest and highest value where they are known without calibration images: of pixels."""
        return (0.0, _WHITE) if self.uint8 else None

    def to_dict(self) -> dict[str, Any]:
        """How to make the input from a picture, for the manifest of a bundle."""
        return {
            "name": self.name,
            "shape": [1, 3, self.height, self.width],
            "layout": "NCHW",
            "dtype": "uint8" if self.uint8 else "float32",
            "colour_order": "RGB",
            "resize": {
                "height": self.height,
                "width": self.width,
                "mode": self.resize,
                "method": "bilinear with antialiasing, on uint8",
            },
            "normalization": None if self.uint8 else "(pixel / 255 - mean) / std, a channel at a time",
            "mean": list(self.mean),
            "std": list(self.std),
        }


@dataclass(frozen=True)
class RawInput(InputLayout):
    """The one input of a network whose input is fed as it is: any number of channels, any range.

    Attributes:
        shape: shape of one sample, without the batch: ``(C, H, W)``, or whatever the network takes.
    """

    shape: tuple[int, ...] = ()

    def pixels(self, images: Tensor) -> Tensor:
        """Not known: nobody has said what the input means.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"the input {self.name!r} of this network is fed as it is: its pixels are not known")

    def prepare(self, images: Tensor) -> Tensor:
        """The samples themselves."""
        return images

    @property
    def range(self) -> None:
        """Not known without calibration images."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Name and shape."""
        return {"name": self.name, "shape": [1, *self.shape], "dtype": "float32"}


@dataclass(frozen=True)
class OutputLayout:
    """The outputs of a network, in order.

    Attributes:
        names: one name per tensor.
        channels: number of channels of each tensor.
        logits: whether the network stops before its sigmoid, which the host then computes.
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]
    logits: bool = False

    def tensors(self, outputs: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> dict[str, Tensor]:
        """Every output by its name.

        Args:
            outputs: what the network returned: its only output, all in order, or all by name.

        Raises:
            ConfigError: there are more or fewer outputs, or others.
        """
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        if not isinstance(outputs, Mapping):
            if len(outputs) != len(self.names):
                raise ConfigError(
                    f"received {len(outputs)} outputs, expected {len(self.names)}: {', '.join(self.names)}"
                )
            outputs = dict(zip(self.names, outputs, strict=True))
        missing = [name for name in self.names if name not in outputs]
        if missing:
            raise ConfigError(f"there is no output {missing[0]!r}; received {', '.join(outputs) or 'none'}")
        return {name: outputs[name] for name in self.names}

    def codes(self, outputs: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """Codes ``(B, C, H, W)`` from the outputs, given by name, in order, or as the only one.

        Raises:
            ConfigError: an output that is missing, or has another number of channels.
        """
        tensors = self.tensors(outputs)
        for (name, values), channels in zip(tensors.items(), self.channels, strict=True):
            if values.shape[1] != channels:
                raise ConfigError(f"output {name!r} has {values.shape[1]} channels, expected {channels}")
        together = torch.cat([values.float() for values in tensors.values()], dim=1)
        if not self.logits:
            return together
        codes: Tensor = saturating_sigmoid(torch, together)  # the bits of decode.py and decode.h
        return codes


@dataclass(frozen=True)
class RawOutputs(OutputLayout):
    """The outputs of a network whose outputs have no known meaning: any number of tensors of any shape."""

    def codes(self, outputs: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """Not known.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"the outputs {', '.join(self.names)} of this network have no known meaning: only their deviation from "
            "FP32 can be reported"
        )


@dataclass(frozen=True)
class Interface:
    """How the host talks to a network.

    Attributes:
        inputs: what the network takes.
        outputs: what it returns.
        codec: what its codes mean in metres.
        table: the codec behind a decode table, for the codes of a device; None where they mean the same.
    """

    inputs: InputLayout
    outputs: OutputLayout
    codec: HostCodec
    table: HostTable | None = None

    @classmethod
    def of_codes(cls, inputs: InputLayout, codec: HostCodec) -> "Interface":
        """The interface of a network as trained: one tensor of codes."""
        return cls(inputs, output_layout(codec, separate=False), codec)

    @classmethod
    def raw(cls, name: str, shape: Sequence[int], outputs: Sequence[str]) -> "Interface":
        """The interface of any network with one input: nothing is known but names and the shape of the input.

        Args:
            name: name of the input.
            shape: shape of one sample, without the batch.
            outputs: name of each tensor that the network returns, in order.
        """
        height, width = (*shape, 1, 1)[-2:] if len(shape) < 2 else shape[-2:]
        inputs = RawInput(height, width, (), (), name=name, shape=tuple(shape))
        return cls(inputs, RawOutputs(tuple(outputs), ()), HostUnknown())

    @property
    def device_codec(self) -> HostCodec:
        """What the codes of a device mean: through the decode table, where there is one."""
        return self.table or self.codec

    def compared(self, outputs: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> dict[str, Tensor]:
        """What is compared between two runs of the network, by name: its codes, or every output that is raw."""
        if isinstance(self.outputs, RawOutputs):
            return self.outputs.tensors(outputs)
        return {CODES: self.outputs.codes(outputs)}

    def feed(self, images: Tensor) -> Tensor:
        """The input of a graph, as floats, that corresponds to normalized images ``(B, 3, H, W)``, or raw samples."""
        return self.inputs.prepare(images).float()

    def depth_m(self, outputs: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres from the outputs of the network."""
        depth_m: Tensor = self.codec.decode_with(torch, self.outputs.codes(outputs).float())
        return depth_m


def output_layout(codec: HostCodec, separate: bool | None = None, logits: bool = False) -> OutputLayout:
    """The outputs of a network with this codec.

    Integer and fraction are outputs of their own unless ``separate`` is False; the codes of a thermometer are one
    tensor unless it is True.

    Args:
        codec: codec of the network.
        separate: whether there is one output per code.
        logits: whether the network stops before its sigmoid.
    """
    suffix = "_logits" if logits else ""
    if isinstance(codec, TwoPartCodec) and separate is not False:
        return OutputLayout((f"integer{suffix}", f"fractional{suffix}"), (1, 1), logits)
    if separate and codec.channels > 1:
        return OutputLayout(tuple(f"code_{k}{suffix}" for k in range(codec.channels)), (1,) * codec.channels, logits)
    return OutputLayout(("logits" if logits else CODES,), (codec.channels,), logits)


def named_layout(codec: HostCodec, names: Sequence[str]) -> OutputLayout:
    """The layout whose outputs :func:`output_layout` gives these names, for a file without its bundle.

    A single output of any other name is taken for the codes.

    Raises:
        ConfigError: there are several outputs, and no layout of this codec has them.
    """
    layouts = [output_layout(codec, separate, logits) for separate in (None, False, True) for logits in (False, True)]
    for layout in layouts:
        if layout.names == tuple(names):
            return layout
    if len(names) == 1:
        return OutputLayout((names[0],), (codec.channels,))
    wanted = " or ".join(dict.fromkeys(", ".join(layout.names) for layout in layouts))
    raise ConfigError(f"there are the outputs {', '.join(names)}, expected those of {codec}: {wanted}")
