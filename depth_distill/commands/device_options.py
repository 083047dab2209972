"""Options of commands that compare a float network with what a device returned."""

import argparse
from typing import TYPE_CHECKING

from depth_distill.commands.values import positive_number
from depth_distill.errors import ConfigError

if TYPE_CHECKING:
    from depth_distill.export.device.outputs import Reading

# As export.compare.tensor_files has them, which is not light enough to be imported for a help page.
DUMP_DTYPES = ("float32", "float16", "int8", "uint8", "int16", "uint16")
DUMP_LAYOUTS = ("nchw", "nhwc")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How the files of a device become codes."""
    device = parser.add_argument_group("how the device's files become codes")
    device.add_argument("--device-unit", choices=("codes", "metres"), default="codes", help="what the numbers are")
    device.add_argument("--scale", type=positive_number, metavar="X", help="of integers: code = (integer - Z) * X")
    device.add_argument("--zero-point", type=int, default=0, metavar="Z", help="of integers, with --scale")
    device.add_argument("--dump-dtype", choices=DUMP_DTYPES, default="float32", help="type of .raw and .bin files")
    device.add_argument("--dump-layout", choices=DUMP_LAYOUTS, default="nchw", help="layout of the files")


def reading_of(options: argparse.Namespace) -> "Reading":
    """What the options of :func:`add_reading` say.

    Raises:
        ConfigError: a zero point without a scale.
    """
    from depth_distill.export.device.outputs import Reading

    if options.zero_point and options.scale is None:
        raise ConfigError("--zero-point goes with --scale: give both, or neither")
    return Reading(options.dump_dtype, options.dump_layout, options.scale, options.zero_point, options.device_unit)
