"""From what a device returned to the decode table that corrects it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from depth_distill.codecs import DepthRange, Encoding, HostCodec, HostSingle, HostUnknown
from depth_distill.codecs.table_fit import fit_table
from depth_distill.data.network_inputs import NetworkInputs, PixelFormat
from depth_distill.data.reading import read_depth
from depth_distill.errors import ConfigError, DataError
from depth_distill.export.bundle.bundle import bundle_of
from depth_distill.export.compare.fitted_table import FittedDecoder
from depth_distill.export.device.outputs import DeviceOutputs, Reading, require_codes
from depth_distill.export.harden.sources import Source, open_source
from depth_distill.quantization.interface import OutputLayout

_DEPTH_SCALES = {".npy": 1.0, ".png": 1000.0}  # units per metre


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


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit.

    Attributes:
        network: the float network: an ``.onnx`` file, a ``.ckpt`` of a run, or a config.
        images: folder of pictures, or of arrays as the network takes them.
        device: folder of what the device returned for them.
        reading: how the files of that folder become numbers.
        meaning: what the output of an ONNX file outside of a bundle means.
        ground_truth: folder of depth maps, named after the images, to fit to in place of the float network.
        pixels: how pixels become the input, for an ONNX file outside of a bundle.
        overrides: options that change the network of a checkpoint or config.
    """

    network: Path
    images: Path
    device: Path
    reading: Reading
    meaning: Meaning | None = None
    ground_truth: Path | None = None
    pixels: PixelFormat | None = None
    overrides: Sequence[str] = ()


def fit_decoder(options: FitOptions, on_image: Callable[[int, int], object] = lambda done, of: None) -> FittedDecoder:
    """Run the float network on the images, read what the device returned, and fit.

    Args:
        options: what to fit on.
        on_image: called with how many images are done, and how many there are.

    Raises:
        ConfigError: the network cannot be used, or what its output means is not known.
        DataError: images or device outputs cannot be used.
    """
    source = open_source(options.network, overrides=options.overrides)
    codec, layout, pixels = _known(options, source)
    if options.reading.unit == "metres" and codec.channels > 1:
        raise ConfigError(
            f"a table is fitted on codes, and metres do not say which of {codec.channels} codes was off: give the "
            "device's codes"
        )
    near_is_one = options.meaning is not None and options.meaning.near_is_one
    inputs = NetworkInputs(options.images, source.shape, source.interface.inputs.name, pixels)
    device: list[NDArray[np.float32]] = []
    expected: list[NDArray[np.float32]] = []
    valid: list[NDArray[np.bool_]] = []
    outputs: DeviceOutputs | None = None
    for index in range(len(inputs)):
        with torch.inference_mode():
            returned = source.interface.outputs.tensors(source.network(source.interface.feed(inputs.load(index)[None])))
        codes = layout.codes({name: _as_map(returned[name], name) for name in layout.names})[0].numpy()
        if outputs is None:
            size = (codes.shape[-2], codes.shape[-1])
            channels = dict(zip(layout.names, layout.channels, strict=True))
            outputs = DeviceOutputs(options.device, inputs.files, channels, size, options.reading)
        _require_codes(options.network, codes)
        said = outputs.read(index)
        together = layout.codes({name: torch.from_numpy(said[name])[None] for name in layout.names})[0].numpy()
        if options.reading.unit == "codes":
            require_codes(outputs.places[index], together)
        else:
            together = codec.encode(together)
            together = 1 - together if near_is_one else together
        device.append(together)
        inside = np.ones((1, *codes.shape[1:]), bool)
        if options.ground_truth is not None:
            depth_m = _truth(options.ground_truth, inputs.files[index].stem, codes.shape[-2:])
            inside = (depth_m >= codec.near_m) & (depth_m <= codec.far_m)
            codes = codec.encode(np.where(inside, depth_m, codec.near_m))
            codes = 1 - codes if near_is_one else codes
        expected.append(codes)
        valid.append(inside)
        on_image(index + 1, len(inputs))
    every = np.stack(device), np.stack(expected), np.stack(valid)
    reference = "the float network" if options.ground_truth is None else "ground truth"
    return FittedDecoder(fit_table(codec, *every, near_is_one), layout, *every, near_is_one, reference)


def _known(options: FitOptions, source: Source) -> tuple[HostCodec, OutputLayout, PixelFormat]:
    """Codec, outputs and pixels, from the run, the bundle around a file, or the options."""
    bundle = bundle_of(options.network) if options.network.suffix.lower() == ".onnx" else None
    says = options.meaning is not None or options.pixels is not None
    if says and (source.pixels is not None or bundle is not None):
        raise ConfigError(
            f"{options.network} knows what its input and output mean: leave out --depth-range, --encoding, --near, "
            "--output and how pixels become the input"
        )
    if bundle is not None:
        mean, std = (tuple(map(float, each)) for each in (bundle.input.mean, bundle.input.std))
        pixels = PixelFormat(raw=True) if bundle.input.uint8 else PixelFormat(mean, std)  # type: ignore[arg-type]
        return bundle.codec, bundle.layout, pixels
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


def _as_map(values: torch.Tensor, name: str) -> torch.Tensor:
    """An output as ``(1, C, H, W)``; one without channels gains one."""
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4:
        raise ConfigError(f"the output {name!r} has the shape {tuple(values.shape)}, expected a map (N, C, H, W)")
    return values.float()


def _require_codes(network: Path, codes: NDArray[np.float32]) -> None:
    if not bool(np.isfinite(codes).all()) or codes.min() < -1e-3 or codes.max() > 1 + 1e-3:
        raise ConfigError(
            f"{network} returns values from {codes.min():.4g} to {codes.max():.4g}, expected codes in [0, 1]: bring it "
            "in with depth-distill import, which says what they mean, and give the checkpoint that this writes"
        )


def _truth(folder: Path, stem: str, size: tuple[int, ...]) -> NDArray[np.float32]:
    """A depth map ``(1, H, W)`` in metres, 0 where there is none, brought to a size by its nearest pixels."""
    files = [path for suffix in _DEPTH_SCALES if (path := folder / f"{stem}{suffix}").is_file()]
    if len(files) != 1:
        raise DataError(f"{folder} has {len(files)} depth maps of the image {stem}: expected {stem}.png or {stem}.npy")
    depth_m = read_depth(files[0], _DEPTH_SCALES[files[0].suffix])
    resized: NDArray[np.float32] = F.interpolate(depth_m[None], size=size, mode="nearest")[0].numpy()
    return resized
