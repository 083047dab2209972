"""An ONNX file in, the same file back, robust: no config, no ground truth, no training.

SOURCE is any ONNX file with one input, a checkpoint of a run, or a config. The passes that are best for this network
are chosen by trying: each is kept only if the INT8 network then deviates less from FP32, on images that were not
calibrated on. The file that comes back has the same inputs, outputs, names and opset; where nothing helps, it is the
untouched one. Beside it are a page with what was done and what to try next (``OUT.html``), the numbers (``OUT.json``)
and the inputs to calibrate on (``OUT.calibration``).

Images are pictures, resized to the input's size (``--resize`` says how, where their aspect ratio is another), or
``.npy`` arrays, fed as they are. Networks that take anything but three colours need arrays. For a checkpoint, any key
of its config can be overridden, as in ``fit``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from depth_distill.commands.options import CommandParser, add_json, add_pixels, add_recipe, add_target, pixels_of
from depth_distill.commands.values import output_file, whole_number

EXAMPLE = """
depth-distill harden model.onnx --images photos --target per-tensor-minmax --out model.hardened.onnx
depth-distill harden model.onnx --images photos --out robust.onnx --normalize unit --effort full
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="an .onnx file, a .ckpt of a run, or a config")
    parser.add_argument(
        "--images",
        dest="image_folder",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of pictures or .npy arrays, as the network sees them in use",
    )
    parser.add_argument(
        "--out", dest="onnx_out", type=output_file, required=True, metavar="FILE", help="the new .onnx file"
    )
    add_target(parser)
    add_recipe(parser, default="auto")
    parser.add_argument(
        "--effort",
        choices=("fast", "full"),
        help="how much the recipe auto tries: full also reconstructs rounding, which takes minutes (default: fast)",
    )
    add_pixels(parser, size=True)
    images = parser.add_argument_group("how many images")
    images.add_argument(
        "--calibration-images",
        dest="calibrate_on",
        type=whole_number,
        default=64,
        metavar="N",
        help="calibrate on at most this many images",
    )
    images.add_argument(
        "--holdout", type=whole_number, default=16, metavar="N", help="judge on at most this many other images"
    )
    parser.add_argument("--report", type=output_file, metavar="FILE", help="the page (default: OUT.html)")
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Harden, write and report."""
    from depth_distill.atomic import write_json
    from depth_distill.display.console import wide_console
    from depth_distill.export.harden.hardening import harden
    from depth_distill.export.harden.outcome import HardenOptions, as_json
    from depth_distill.export.harden.report import advice, table, worst_table, write_results
    from depth_distill.quantization.recipe import load_recipe
    from depth_distill.quantization.target.target import load_target

    out: Path = options.onnx_out
    console = wide_console()
    found, calibration = harden(
        HardenOptions(
            source=options.source,
            images=options.image_folder,
            out=out,
            recipe=load_recipe(options.recipe),
            effort=options.effort,
            calibration_images=options.calibrate_on,
            held_out=options.holdout,
            pixels=pixels_of(options),
            resize=options.resize,
            size=None if options.size is None else tuple(options.size),
            overrides=overrides,
        ),
        load_target(options.target),
        console,
    )
    page = options.report or out.with_suffix(".html")
    folder = write_results(found, calibration, page)
    if options.json is not None:
        write_json(options.json, as_json(found))
    console.print(table(found))
    if found.layers:
        console.print(worst_table(found))
    for note in found.verdict.notes:
        console.print(f"note     {note}", soft_wrap=True, highlight=False)
    for line in advice(found):
        console.print(f"next     {line}", soft_wrap=True, highlight=False)
    console.print(f"written  {out}, {page}, {out.with_suffix('.json')}, {folder}", soft_wrap=True, highlight=False)
    console.print(found.sentence, soft_wrap=True, highlight=False, style="bold")
