"""A float network, images, and what a device returned for them: read in one place, for every question about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depth_distill.codecs import DepthRange, Encoding, HostCodec, HostSingle, HostUnknown
from depth_distill.data.network_inputs import NetworkInputs, PixelFormat
from depth_distill.errors import ConfigError
from depth_distill.export.bundle.bundle import Bundle, bundle_of
from depth_distill.export.device.outputs import DeviceOutputs, Reading, codes_of, require_readable
from depth_distill.export.harden.sources import Source, open_source, resize_of, resize_option
from depth_distill.quantization.interface import OutputLayout
from depth_distill.types import ResizeMode

Codes = NDArray[np.float32]


@dataclass(frozen=True)
class Meaning:
    """What one output of an ONNX file means, where nothing else says it.

    Attributes:
        depth_range: depth at its ends, in metres.
        encoding: how depth is spread over [0, 1].
        near_is_one: whether 1 is the near end.
        output: name of the output; the only one unless given.
    """

    depth_range: DepthRange
    encoding: Encoding
    near_is_one: bool = False
    output: str | None = None


@dataclass(frozen=True, kw_only=True)
class CaseOptions:
    """What is compared, and how it is read.

    Attributes:
        network: the float network: an ``.onnx`` file, a ``.ckpt`` of a run, or a config.
        images: folder of pictures, or of arrays as the network takes them.
        device: folder of what the device returned for them.
        reading: how the files of that folder become numbers.
        meaning: what the output of an ONNX file outside of a bundle means.
        pixels: how pixels become the input, for an ONNX file outside of a bundle.
        resize: how pictures of another aspect ratio come to the size of the input, for such a file.
        overrides: options that change the network of a checkpoint or config.
    """

    network: Path
    images: Path
    device: Path | None = None
    reading: Reading = Reading()  # noqa: RUF009 - frozen
    meaning: Meaning | None = None
    pixels: PixelFormat | None = None
    resize: ResizeMode | None = None
    overrides: Sequence[str] = ()


class Outputs(Protocol):
    """What a device returned for some images."""

    def read(self, index: int) -> Mapping[str, Codes]:
        """Every output of one image by name, ``(C, H, W)``."""

    def place(self, index: int) -> str:
        """Where that is from, for messages."""


class Case:
    """A float network and images; with ``options.device``, also what a device returned.

    Args:
        options: what it is made of.

    Raises:
        ConfigError: the network cannot be used, is another file of a bundle than the float one, or what its output
            means is not known.
        DataError: there are no images.
    """

    def __init__(self, options: CaseOptions) -> None:
        self.options = options
        bundle = bundle_of(options.network) if options.network.suffix.lower() == ".onnx" else None
        if bundle is not None:
            bundle.require_float(options.network)
        self.source = open_source(options.network, overrides=options.overrides)
        self.codec, self.layout, self.pixels = _known(options, self.source, bundle)
        require_readable(self.codec, options.reading.unit)
        self.near_is_one = options.meaning is not None and options.meaning.near_is_one
        bundled, name = None if bundle is None else bundle.input, self.source.interface.inputs.name
        resize = resize_of(self.source, options.resize, bundled)
        self.inputs = NetworkInputs(options.images, self.source.shape, name, self.pixels, resize)
        self.note = self.inputs.note(resize_option(self.source, bundled))
        """What becomes of pictures of another aspect ratio, in a line; empty where there are none."""

    def __len__(self) -> int:
        return len(self.inputs)

    def float_codes(self, index: int) -> Codes:
        """Codes ``(C, H, W)`` of the float network for an image.

        Raises:
            ConfigError: they are not in [0, 1].
        """
        codes = self.codes_of(self.source.network, self.inputs.load(index))
        _require_codes(self.options.network, codes)
        return codes

    def codes_of(self, network: nn.Module, given: Tensor) -> Codes:
        """Codes ``(C, H, W)`` of this network, or of one that was changed, for one input without its batch."""
        interface = self.source.interface
        with torch.inference_mode():
            returned = interface.outputs.tensors(network(interface.feed(given[None])))
        codes = self.layout.codes({name: _as_map(returned[name], name) for name in self.layout.names})
        return np.asarray(codes[0].numpy(), np.float32)

    def device_codes(self, index: int, outputs: Outputs | None = None) -> Codes:
        """Codes ``(C, H, W)`` that the device returned for an image; metres are encoded.

        Args:
            index: number of the image.
            outputs: what the device returned; the files of ``options.device`` unless given.

        Raises:
            DataError: a file is missing or damaged, or codes are not in [0, 1].
        """
        outputs = outputs or self.files
        reading = self.options.reading
        codes = codes_of(outputs.read(index), self.codec, self.layout, reading, outputs.place(index))
        return self.oriented(codes) if reading.unit == "metres" else codes

    @cached_property
    def files(self) -> DeviceOutputs:
        """The files of ``options.device``.

        Raises:
            DataError: the folder does not exist, lacks an image, or has files of none.
        """
        if self.options.device is None:
            raise ConfigError("there are no outputs of a device: say their folder")
        size = self.float_codes(0).shape[-2:]
        reading = self.options.reading
        return DeviceOutputs(self.options.device, self.inputs.files, self.layout, (size[0], size[1]), reading)

    def oriented(self, codes: Codes) -> Codes:
        """Codes in which 0 is near, as in every codec, from those of the network, and back."""
        return 1 - codes if self.near_is_one else codes

    def depth_m(self, codes: Codes) -> Codes:
        """Depth ``(..., 1, H, W)`` in metres of codes ``(..., C, H, W)``."""
        return self.codec.decode(self.oriented(codes))


def _known(options: CaseOptions, source: Source, bundle: Bundle | None) -> tuple[HostCodec, OutputLayout, PixelFormat]:
    """Codec, outputs and pixels, from the run, the bundle around a file, or the options."""
    says = options.meaning is not None or options.pixels is not None
    if says and (source.pixels is not None or bundle is not None):
        raise ConfigError(
            f"{options.network} knows what its input and output mean: leave out --depth-range, --encoding, --near, "
            "--output and how pixels become the input"
        )
    if bundle is not None:
        return bundle.codec, bundle.layout, bundle.pixels
    if source.pixels is not None:
        if isinstance(source.interface.codec, HostUnknown):
            raise ConfigError(f"{options.network}: what its output means is not known, so no table can be fitted")
        return source.interface.codec, source.interface.outputs, source.pixels
    meaning = options.meaning
    if meaning is None:
        raise ConfigError(
            f"what the output of {options.network} means is not known: say --depth-range MIN MAX and --encoding"
        )
    names = source.interface.outputs.names
    if meaning.output is None and len(names) > 1:
        raise ConfigError(f"{options.network} has the outputs {', '.join(names)}: say which is depth, with --output")
    name = meaning.output or names[0]
    if name not in names:
        raise ConfigError(f"{options.network} has no output {name!r}: expected one of {', '.join(names)}")
    raw = PixelFormat.named("raw") if source.takes_uint8 else PixelFormat.named("imagenet")
    layout = OutputLayout((name,), (1,))
    return HostSingle(meaning.depth_range, meaning.encoding), layout, options.pixels or raw


def _as_map(values: Tensor, name: str) -> Tensor:
    """An output as ``(1, C, H, W)``; one without channels gains one."""
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4:
        raise ConfigError(f"the output {name!r} has the shape {tuple(values.shape)}, expected a map (N, C, H, W)")
    return values.float()


def _require_codes(network: Path, codes: Codes) -> None:
    if not bool(np.isfinite(codes).all()) or codes.min() < -1e-3 or codes.max() > 1 + 1e-3:
        raise ConfigError(
            f"{network} returns values from {codes.min():.4g} to {codes.max():.4g}, expected codes in [0, 1]: bring it "
            "in with depth-distill import, which says what they mean, and give the checkpoint that this writes"
        )
