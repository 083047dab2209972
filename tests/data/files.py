"""Small image and depth files for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (6, 4)  # width, height


def write_image(path: Path, level: int = 100, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)
    return path


def write_depth(path: Path, value: int = 1500, size: tuple[int, int] = SIZE) -> Path:
    """A 16-bit PNG of one value, except for the upper left pixel, which has no depth."""
    array = np.full(size[::-1], value, dtype=np.uint16)
    array[0, 0] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path
