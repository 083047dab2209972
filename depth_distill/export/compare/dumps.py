"""Tensors dumped on a device, read as the float32 outputs of a file's layers."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from depth_distill.errors import DataError
from depth_distill.export.compare.tensor_files import HEADERLESS, DumpDtype, DumpLayout, arranged, read_tensor
from depth_distill.export.onnx_io.layers import OnnxLayer
from depth_distill.suggestions import did_you_mean

_SUFFIXES = (".npy", *HEADERLESS)


class DumpFolder:
    """One folder per image (``0000``, ``0001``, ...) with one file per layer.

    Files are named after their layers; characters other than letters and digits may be replaced by ``_``, as QNN does.
    ``.npy`` files store their own type; ``.raw`` and ``.bin`` files are headerless little-endian numbers. Integers are
    codes, dequantized with the scale and zero point of their layer; int8 codes of a uint8 tensor are shifted by 128.

    Args:
        folder: folder of the dumps.
        layers: layers that there may be dumps of.
        dtype: type of headerless files.
        layout: layout of feature maps; TFLite and many chips use channels last.

    Raises:
        DataError: the folder does not exist, has no folder of an image, or has a file that belongs to no layer.
    """

    def __init__(
        self, folder: Path, layers: Sequence[OnnxLayer], dtype: DumpDtype = "float32", layout: DumpLayout = "nchw"
    ) -> None:
        self.folder = folder
        self.dtype, self.layout = dtype, layout
        images = sorted(each for each in folder.glob("[0-9]" * 4) if each.is_dir())
        if not images:
            raise DataError(f"{folder} has no folder 0000, 0001 and so on: expected one per image")
        names = [layer.name for layer in layers]
        keys = Counter(map(_key, names))
        by_key = {_key(name): name for name in names if keys[_key(name)] == 1}
        self._files: dict[int, dict[str, Path]] = {}
        for image in images:
            files = self._files.setdefault(int(image.name), {})
            for path in sorted(each for each in image.iterdir() if each.suffix in _SUFFIXES):
                name = path.stem if path.stem in names else by_key.get(_key(path.stem))
                if name is None:
                    raise DataError(f"{path} belongs to no layer of the file; {did_you_mean(path.stem, names)}")
                if name in files:
                    raise DataError(f"{path} and {files[name]} belong to the same layer, {name}: delete one of them")
                files[name] = path
        if not any(self._files.values()):
            raise DataError(f"{folder} has no {', '.join(_SUFFIXES)} file of any layer")

    @property
    def images(self) -> tuple[int, ...]:
        """Numbers of the dumped images."""
        return tuple(self._files)

    def read(self, image: int, layer: OnnxLayer, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """The dump of a layer as ``shape``; None if there is none.

        Raises:
            DataError: the file is damaged or has another number of values, or holds codes of a layer without a scale.
        """
        path = self._files[image].get(layer.name)
        if path is None:
            return None
        values = read_tensor(path, shape, self.dtype)
        if values.dtype.kind in "iu":
            if layer.quant_params is None:
                raise DataError(
                    f"{path} has {values.dtype} codes, but {layer.name} has no scale in the file: dump floats"
                )
            values = layer.quant_params.real(values)
        return arranged(path, values.astype(np.float32), shape, self.layout)


def dump_names(names: Sequence[str]) -> dict[str, str]:
    """Names without suffix of the files of layers, in which no name of somebody else's file is a path.

    Raises:
        DataError: two layers would share one file.
    """
    files = {name: re.sub(r"[^0-9A-Za-z_.-]", "_", name) for name in names}
    by_key: dict[str, str] = {}
    for name in names:
        other = by_key.setdefault(_key(name), name)
        if other != name:
            raise DataError(f"the layers {other!r} and {name!r} would have the same file: rename one of them")
    return files


def _key(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "_", name)
