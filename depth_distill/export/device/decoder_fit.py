"""From what a device returned to the decode table that corrects it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from depth_distill.codecs.table_fit import fit_table
from depth_distill.data.placement import Placement
from depth_distill.data.reading import read_depth
from depth_distill.errors import DataError
from depth_distill.export.compare.fitted_table import FittedDecoder
from depth_distill.export.device.case import Case, CaseOptions, Codes
from depth_distill.export.interface.decoders import require_plain_names
from depth_distill.types import ResizeMode

_DEPTH_SCALES = {".npy": 1.0, ".png": 1000.0}  # units per metre


@dataclass(frozen=True, kw_only=True)
class FitOptions(CaseOptions):
    """Options of a fit.

    Attributes:
        ground_truth: folder of depth maps, named after the images, to fit to in place of the float network.
    """

    ground_truth: Path | None = None


def fit_decoder(options: FitOptions, on_image: Callable[[int, int], object] = lambda done, of: None) -> FittedDecoder:
    """Run the float network on the images, read what the device returned, and fit.

    Args:
        options: what to fit on.
        on_image: called with how many images are done, and how many there are.

    Raises:
        ConfigError: the network cannot be used, what its output means is not known, or its name cannot stand in the
            source code of a decoder.
        DataError: images or device outputs cannot be used.
    """
    case = Case(options)
    require_plain_names(case.layout.names)
    codec = case.codec
    device: list[Codes] = []
    expected: list[Codes] = []
    valid: list[NDArray[np.bool_]] = []
    for index in range(len(case)):
        codes = case.float_codes(index)
        device.append(case.device_codes(index))
        inside = np.ones((1, *codes.shape[1:]), bool)
        if options.ground_truth is not None:
            depth_m = _truth(options.ground_truth, case.inputs.files[index].stem, codes.shape[-2:], case.inputs.resize)
            inside = (depth_m >= codec.near_m) & (depth_m <= codec.far_m)
            codes = case.oriented(codec.encode(np.where(inside, depth_m, codec.near_m)))
        expected.append(codes)
        valid.append(inside)
        on_image(index + 1, len(case))
    every = np.stack(device), np.stack(expected), np.stack(valid)
    reference = "the float network" if options.ground_truth is None else "ground truth"
    fit, near = fit_table(codec, *every, case.near_is_one), case.near_is_one
    return FittedDecoder(fit, case.layout, *every, near, reference, case.files.integers)


def _truth(folder: Path, stem: str, size: tuple[int, ...], mode: ResizeMode) -> NDArray[np.float32]:
    """A depth map ``(1, H, W)`` in metres, 0 where there is none, brought to a size by its nearest pixels."""
    files = [path for suffix in _DEPTH_SCALES if (path := folder / f"{stem}{suffix}").is_file()]
    if len(files) != 1:
        raise DataError(f"{folder} has {len(files)} depth maps of the image {stem}: expected {stem}.png or {stem}.npy")
    depth_m = read_depth(files[0], _DEPTH_SCALES[files[0].suffix])
    height, width = depth_m.shape[-2:]
    placement = Placement.of((height, width), (size[0], size[1]), mode)
    resized = F.interpolate(depth_m[None], size=placement.inner, mode="nearest")[0]
    placed: NDArray[np.float32] = placement.place(resized, torch.zeros(1, 1, 1)).numpy()
    return placed
