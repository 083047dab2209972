"""What leaves the network in the file: which named outputs, and how the host puts them together to codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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

    def codes(self, outputs: Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """Codes ``(B, C, H, W)`` of the outputs, by name or in order.

        Raises:
            ConfigError: an output that is missing, or has another number of channels.
        """
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
