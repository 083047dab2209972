"""What a device returned for the calibration images of a bundle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from depth_distill.codecs import HostCodec
from depth_distill.export.device.outputs import DeviceOutputs, Reading, codes_of, require_readable
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
        require_readable(codec, self.reading.unit)
        files = self._files(layout, count, size)
        every = [codes_of(files.read(k), codec, layout, self.reading, files.place(k)) for k in range(count)]
        return np.stack(every)

    def outputs(self, layout: OutputLayout, count: int, size: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
        """Every output by name, ``(N, C, H, W)``; see :meth:`codes`."""
        files = self._files(layout, count, size)
        every = [files.read(index) for index in range(count)]
        return {name: np.stack([each[name] for each in every]) for name in layout.names}

    def _files(self, layout: OutputLayout, count: int, size: tuple[int, int]) -> DeviceOutputs:
        numbers = [Path(f"{index:04d}.png") for index in range(count)]
        return DeviceOutputs(self.folder, numbers, layout, size, self.reading)
