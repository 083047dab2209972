"""Options of commands that compare a float network with what a device returned."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from depth_distill.commands.options import add_pixels
from depth_distill.commands.values import finite_number, positive_number
from depth_distill.errors import ConfigError

if TYPE_CHECKING:
    from depth_distill.export.device.case import Meaning
    from depth_distill.export.device.outputs import Reading

# As export.compare.tensor_files has them, which is not light enough to be imported for a help page.
DUMP_DTYPES = ("float32", "float16", "int8", "uint8", "int16", "uint16")
DUMP_LAYOUTS = ("nchw", "nhwc")


def add_network_and_images(parser: argparse.ArgumentParser, bundles: bool = False) -> None:
    """``NETWORK`` and ``--images``, a folder; with ``bundles``, a bundle brings its calibration images."""
    kinds = f"an .onnx file, {'a bundle, ' * bundles}a .ckpt of a run, or a config"
    images = "pictures or .npy inputs" + " (default: the calibration images of a bundle)" * bundles
    parser.add_argument("network", type=Path, metavar="NETWORK", help=kinds)
    parser.add_argument("--images", dest="image_folder", type=Path, required=not bundles, metavar="DIR", help=images)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How the files of a device become codes."""
    device = parser.add_argument_group("how the device's files become codes")
    device.add_argument("--device-unit", choices=("codes", "metres"), default="codes", help="what the numbers are")
    device.add_argument("--scale", type=positive_number, metavar="X", help="of integers: code = (integer - Z) * X")
    device.add_argument("--zero-point", type=int, default=0, metavar="Z", help="of integers, with --scale")
    device.add_argument("--dump-dtype", choices=DUMP_DTYPES, default="float32", help="type of .raw and .bin files")
    device.add_argument("--dump-layout", choices=DUMP_LAYOUTS, default="nchw", help="layout of the files")


def add_meaning(parser: argparse.ArgumentParser) -> None:
    """What goes in and out of an ONNX file that does not say it."""
    meaning = parser.add_argument_group("what the output of an ONNX file outside of a bundle means")
    meaning.add_argument("--depth-range", type=finite_number, nargs=2, metavar=("MIN", "MAX"), help="its ends, in m")
    meaning.add_argument(
        "--encoding", choices=("linear", "inverse", "log"), help="how depth is spread over [0, 1] (disparity: inverse)"
    )
    meaning.add_argument("--near", type=int, choices=(0, 1), default=0, help="the code of the nearest depth")
    meaning.add_argument("--output", dest="output_name", metavar="NAME", help="which output, where there are several")
    add_pixels(parser)


def reading_of(options: argparse.Namespace, lenient: bool = False) -> "Reading":
    """What the options of :func:`add_reading` say.

    Raises:
        ConfigError: a zero point without a scale.
    """
    from depth_distill.export.device.outputs import Reading

    if options.zero_point and options.scale is None:
        raise ConfigError("--zero-point goes with --scale: give both, or neither")
    return Reading(
        options.dump_dtype, options.dump_layout, options.scale, options.zero_point, options.device_unit, lenient
    )


def meaning_of(options: argparse.Namespace) -> "Meaning | None":
    """What the options say about the output of a file; None if nothing.

    Raises:
        ConfigError: they say a part of it only.
    """
    from depth_distill.codecs import DepthRange
    from depth_distill.export.device.case import Meaning

    if (options.depth_range is None) != (options.encoding is None):
        raise ConfigError("--depth-range and --encoding belong together: give both, or neither")
    if options.depth_range is None:
        if options.near or options.output_name:
            raise ConfigError("--near and --output go with --depth-range and --encoding")
        return None
    return Meaning(DepthRange(*options.depth_range), options.encoding, bool(options.near), options.output_name)
