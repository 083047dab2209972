"""What a device returned for the calibration images of a bundle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from depth_distill.codecs import HostCodec
from depth_distill.errors import ConfigError
from depth_distill.export.device.outputs import DeviceOutputs, Reading, require_codes
from depth_distill.quantization.interface import OutputLayout


@dataclass(frozen=True)
class CalibrationOutputs:
    """A folder with a file per calibration image, numbered as in ``calibration/``: ``0000.npy``, ``0001.npy``, ...

    Attributes:
        folder: the folder.
        reading: how its files become numbers.
    """

    folder: Path
    reading: Reading

    @property
    def title(self) -> str:
        """The device, by the name of the folder."""
        return f"the device of {self.folder.name}"

    def codes(self, codec: HostCodec, layout: OutputLayout, count: int, size: tuple[int, int]) -> NDArray[np.float32]:
        """Codes ``(N, C, H, W)`` of ``count`` images, in order.

        Args:
            codec: codec of the float network, which encodes metres.
            layout: the outputs.
            count: number of calibration images.
            size: height and width of the outputs.

        Raises:
            ConfigError: the numbers are metres of several codes.
            DataError: a file is missing or damaged, or is of no image.
        """
        if self.reading.unit == "metres" and codec.channels > 1:
            raise ConfigError(
                f"a table is fitted on codes, and metres do not say which of {codec.channels} codes was off: give the "
                "device's codes"
            )
        said = self.outputs(layout, count, size)
        if self.reading.unit == "metres":
            return codec.encode(said[layout.names[0]])
        codes = layout.codes({name: torch.from_numpy(each) for name, each in said.items()}).numpy()
        for index, each in enumerate(codes):
            require_codes(self.folder / f"{index:04d}", each)
        return np.asarray(codes, np.float32)

    def outputs(self, layout: OutputLayout, count: int, size: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
        """Every output by name, ``(N, C, H, W)``; see :meth:`codes`."""
        channels = dict(zip(layout.names, layout.channels, strict=True))
        numbers = [Path(f"{index:04d}.png") for index in range(count)]
        files = DeviceOutputs(self.folder, numbers, channels, size, self.reading)
        every = [files.read(index) for index in range(count)]
        return {name: np.stack([each[name] for each in every]) for name in layout.names}
