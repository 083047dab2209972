"""A tool chain in place of a device: it quantizes the float network by itself if it can, and runs it."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from depth_distill.errors import ConfigError, DataError
from depth_distill.export.backends.backends import find_backend
from depth_distill.export.backends.runtime import as_input, only_input
from depth_distill.export.device.case import Case, Codes
from depth_distill.export.device.evidence import evenly
from depth_distill.export.interface.calibration_set import write_tensors

_AT_MOST = 64  # images that it is judged on
_FEWEST = 4


@dataclass(frozen=True)
class ChainOutputs:
    """What a tool chain returned.

    Attributes:
        title: name and version of the tool chain, and how it was calibrated.
        numbers: numbers of the images that it was run on.
        outputs: by name, ``(N, C, H, W)``.
        notes: what its runner has to say.
    """

    title: str
    numbers: tuple[int, ...]
    outputs: Mapping[str, Codes]
    notes: tuple[str, ...]

    def read(self, index: int) -> Mapping[str, Codes]:
        """Every output of one image by name, ``(C, H, W)``."""
        row = self.numbers.index(index)
        maps = {name: values[row] for name, values in self.outputs.items()}
        return {name: each[None] if each.ndim == 2 else each for name, each in maps.items()}

    def place(self, index: int) -> str:
        """The tool chain, for messages."""
        return f"{self.title}, image {index},"


def run_on(name: str, case: Case, calibration_images: int, settings: Mapping[str, str]) -> ChainOutputs:
    """Run the float network of a case on a tool chain.

    Args:
        name: name of a backend.
        case: network and images.
        calibration_images: number of images to calibrate on, at most, if the tool chain quantizes; it is then run on
            others.
        settings: options of its runner.

    Raises:
        ConfigError: there is no such backend, it is not installed, or refuses the network.
        DataError: there are too few images.
    """
    if case.options.reading.unit == "metres":
        raise ConfigError("--device-unit is for the files of a device: a backend returns codes")
    backend = find_backend(name)
    calibrated, judged = _divided(len(case), calibration_images) if backend.quantizes else ([], range(len(case)))
    judged = evenly(judged, _AT_MOST)
    with tempfile.TemporaryDirectory() as folder:
        model, calibration = Path(folder) / "float.onnx", Path(folder) / "calibration"
        case.source.untouched(model)
        dtype = only_input(model)[1]
        if backend.quantizes:
            write_tensors((_feed(case, index, dtype) for index in calibrated), calibration)
        inputs = np.stack([_feed(case, index, dtype) for index in judged])
        ran = backend.run(model, inputs, calibration if backend.quantizes else None, settings, repeats=0)
    how = f"its own PTQ on {len(calibrated)} other images" if backend.quantizes else "float, as it has no PTQ"
    wanted = {each: ran.outputs[each] for each in case.layout.names}
    return ChainOutputs(f"{backend.title} {ran.version} ({how})", tuple(judged), wanted, ran.notes)


def _divided(count: int, most: int) -> tuple[list[int], Sequence[int]]:
    """Every second image to calibrate on, at most so many; the others to judge on."""
    if count < _FEWEST:
        raise DataError(f"received {count} images, expected {_FEWEST} or more: half to calibrate on, half to judge on")
    return evenly(range(0, count, 2), most), range(1, count, 2)


def _feed(case: Case, index: int, dtype: torch.dtype) -> np.ndarray:
    given: Tensor = case.source.interface.inputs.prepare(case.inputs.load(index)[None])
    array: np.ndarray = as_input(given, dtype, f"the image {case.inputs.files[index]}")[0].numpy()
    return array
