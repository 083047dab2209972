"""The one place that opens image files: JPEG and PNG only, and of bounded size."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from depth_distill.data.file_errors import AnyFile, readable_errors
from depth_distill.errors import DataError

# Pillow knows forty formats more: it hands EPS to Ghostscript, and decodes a float TIFF to black.
FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 2**27
"""134 megapixels, 400 MB as RGB: more than the cameras of most phones have."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"
_ORIENTATION = 0x0112  # EXIF 2.3, table 4; 1 is upright
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types of PNG

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the size is checked here


@contextmanager
def open_image(path: AnyFile, expected: str) -> Iterator[Image.Image]:
    """Open an image without decoding it.

    Args:
        path: the file. What it holds decides, not its suffix.
        expected: what it should be, for messages.

    Raises:
        DataError: it is missing, damaged, neither JPEG nor PNG, or too large; also where decoding fails in the body.
    """
    with readable_errors(path, expected, (_JPEG, _PNG)), path.open("rb") as opened:
        try:
            file = Image.open(opened, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise _too_large(path, int(re.search(r"\d+", str(error)).group())) from error  # type: ignore[union-attr]
        with file:
            if file.width * file.height > MAX_PIXELS:
                raise _too_large(path, file.width * file.height)
            yield file


def orientation(file: Image.Image) -> int:
    """The EXIF orientation; 1 where the rows of the file are those of the scene, from the top."""
    value = file.getexif().get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def is_16_bit(file: Image.Image) -> bool:
    """Whether it has one channel of 16 bits, as depth maps have."""
    return file.mode == "I" or file.mode.startswith("I;16")  # "I": how some writers and older Pillows store 16 bits


def channels(path: AnyFile, file: Image.Image) -> str:
    """Number and bits of the channels of the file; Pillow opens all PNGs with several channels as 8 bits."""
    if file.format != "PNG":
        return f"{len(file.getbands())} of 8 bits"
    with path.open("rb") as header:
        bits, colour_type = header.read(26)[24:]  # in the chunk IHDR, which comes first
    return f"{_CHANNELS.get(colour_type, 1)} of {bits} bits"


def _too_large(path: AnyFile, pixels: int) -> DataError:
    return DataError(
        f"{path}: the image has {pixels / 1e6:.0f} megapixels, and at most {MAX_PIXELS / 1e6:.0f} are read; make it "
        "smaller, or remove the sample from the split"
    )
