"""Run a file of a bundle on a tool chain, and compare what comes out with what should.

Images are those of the bundle's calibration set, or with ``--checkpoint`` the validation split of its run. The
reference is the same file on ONNX Runtime without optimization.

Dumps are one folder per image, named by its number in the calibration set, with one file per layer,
``dumps/0000/LAYER.npy`` (or .raw, .bin: see ``--dump-dtype``), as floats or as the integer codes of the layer;
``--dump-reference`` writes the reference in this form. Layers that a device cannot give may be missing.

Where the bundle has a decode table, integer outputs are shown with and without it, and judged with it; their depth is
compared with that of the float file.

The exit code is 1 if the mean drift of an output (of a layer: relative to its range) exceeds ``--max-mean-drift``, and
2 where the comparison cannot be made.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from depth_distill.commands.device_options import add_reading
from depth_distill.commands.options import CommandParser, add_checkpoint, add_config, add_images, add_json, add_out
from depth_distill.commands.values import number_from_zero, output_folder

EXAMPLE = """
depth-distill npu-compare --bundle bundle --backend openvino
depth-distill npu-compare --bundle bundle --backend rknn --artifact float --quantize
depth-distill npu-compare --bundle bundle --backend qnn --checkpoint runs/NAME/TIME/checkpoints/last.ckpt
depth-distill npu-compare --bundle bundle --dump-reference dumps
depth-distill npu-compare --bundle bundle --dumps dumps
depth-distill npu-compare --bundle bundle --device-outputs npu
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="a bundle of depth-distill export")
    parser.add_argument("--artifact", default="int8", metavar="KIND", help="file to run: float, int8, fp16 or mixed")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--backend", metavar="NAME", help="run it on this tool chain of `depth-distill list backends`")
    what.add_argument("--dumps", type=Path, metavar="DIR", help="compare tensors that were dumped on a device")
    what.add_argument(
        "--device-outputs",
        type=Path,
        metavar="DIR",
        help="compare what a device returned for the calibration images: 0000.npy, 0001.npy, ...",
    )
    what.add_argument("--dump-reference", type=output_folder, metavar="DIR", help="write the reference's tensors")
    parser.add_argument("--quantize", action="store_true", help="let the tool chain quantize the float file itself")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the backend's recipe; repeatable"
    )
    add_images(parser, default=8)
    add_checkpoint(parser, required=False)
    add_config(parser)
    parser.add_argument(
        "--max-mean-drift",
        type=number_from_zero,
        default=0.005,
        metavar="X",
        help="largest mean drift of an output in [0, 1]",
    )
    add_out(parser, required=False)
    add_json(parser)
    add_reading(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run, compare, print and write."""
    from depth_distill.commands.comparison import compare

    return compare(options, overrides)
