"""``decode.py`` and ``decode.h``, which decode the outputs of one network to metres on a host, bit-exactly.

Both are written for one codec and one layout, without code for others. Their arithmetic is traced from the codec's own
``depth_of``: the same IEEE operations in the same order, and so the same bits.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from depth_distill.atomic import atomic_path
from depth_distill.codecs import HostCodec
from depth_distill.errors import ConfigError
from depth_distill.export.interface.decoders.c_header import c_header
from depth_distill.export.interface.decoders.integer_codes import WHOLE_RANGE, IntegerCodes
from depth_distill.export.interface.decoders.numpy_script import numpy_script
from depth_distill.quantization.interface import OutputLayout

__all__ = ["IntegerCodes", "c_header", "numpy_script", "require_plain_names", "write_decoders"]

_NAME = re.compile(r"[\w./:-]+", re.ASCII)


def require_plain_names(names: Sequence[str]) -> None:
    """Require names of outputs that can stand in Python, C and comments as they are: they may be of anybody's file.

    Raises:
        ConfigError: a name has other characters than letters, digits and ``. / : - _``.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"the output {name!r} has characters that no decoder is written with, expected letters, digits and "
                "any of . / : - _: rename it in the file"
            )


def write_decoders(
    codec: HostCodec,
    layout: OutputLayout,
    folder: Path,
    integers: IntegerCodes | None = WHOLE_RANGE,
    name: str = "decode",
    note: str = "",
) -> tuple[Path, ...]:
    """Write ``decode.py`` (NumPy) and ``decode.h`` (C99, header only) into ``folder``.

    Args:
        codec: codec of the network.
        layout: layout of the network's outputs.
        folder: folder of the new files; it is created if necessary.
        integers: 8-bit integers of the output of a single-code network, for the table of depth in the header; codes
            that are spread over [0, 1] unless given. Without a table where they are None, or not given of logits.
        name: name of the files, without suffix.
        note: which files' outputs they decode.

    Returns:
        The paths of the two files.

    Raises:
        ConfigError: the number of channels of the layout differs from the number of codes of the codec, or the name of
            an output cannot stand in source code.
    """
    require_plain_names(layout.names)
    note = re.sub(r'["\\]|\*/', "_", note)  # it may name a folder
    if sum(layout.channels) != codec.channels:
        raise ConfigError(f"the outputs have {sum(layout.channels)} channels, but the codec has {codec.channels} codes")
    paths = folder / f"{name}.py", folder / f"{name}.h"
    texts = (
        numpy_script(codec, layout, note, f"{name}.py"),
        c_header(codec, layout, integers, note, f"{name}.h"),
    )
    for path, text in zip(paths, texts, strict=True):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    return paths
