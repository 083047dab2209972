"""Small image and depth files for tests."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (6, 4)  # width, height


def write_image(path: Path, level: int = 100, size: tuple[int, int] = SIZE, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture, exif = Image.new("RGB", size, (level, level, level)), Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif if orientation != 1 else b"")
    return path


def write_png_header(path: Path, size: tuple[int, int], bits: int = 8) -> Path:
    """A PNG of three channels that says how large it is, and has no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


def write_depth(path: Path, value: int = 1500, size: tuple[int, int] = SIZE) -> Path:
    """A 16-bit PNG of one value, except for the upper left pixel, which has no depth."""
    array = np.full(size[::-1], value, dtype=np.uint16)
    array[0, 0] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_photos(folder: Path, count: int, prefix: str = "") -> Path:
    """PNG pictures of coloured blobs, 48 x 32."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (4, 6, 3), dtype=np.uint8))
        coarse.resize((48, 32)).save(folder / f"{prefix}{index:02d}.png")
    return folder
