"""Choose the images that a tool chain calibrates on by minimum and maximum.

Such a tool chain takes the lowest and the highest value over all images. One overexposed picture widens the range of a
tensor for all others; too few pictures clip what they do not show. The N images are chosen whose ranges minimize the
deviation from FP32 on the rest, from statistics of each image, and judged by really quantizing on images that had no
part in the choice, beside all images, random ones, and fewer. Where that is not better than all images, it says so, and
all are written. A tenth of the images, the worst, does not count: they may be faulty. With ``--judge-on`` every image
of that folder counts.

NETWORK is what the tool chain is given: an ONNX file, a checkpoint of a run, or a config. Images are a folder of
pictures or ``.npy`` inputs, or a data config, whose training split is taken.

Written are the lists that tool chains read (``tensors.txt``, ``input_list.txt``, ``images.txt``, and ``dataset.txt``
with copies of the pictures as they were), ``sources.txt``, ``pick.json`` and ``pick.png``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from depth_distill.commands.options import (
    CommandParser,
    add_json,
    add_out,
    add_pixels,
    add_target,
    pixels_of,
)
from depth_distill.commands.values import require_own_folder, seed_number, whole_number
from depth_distill.shipped_configs import find_config, shipped_names

EXAMPLE = """
depth-distill pick-calibration model.onnx --images photos --count 16 --out calibration
depth-distill pick-calibration CKPT --images data/kitchen --data.root kitchen --count 16 --out calibration
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("network", type=Path, metavar="NETWORK", help="an .onnx file, a .ckpt of a run, or a config")
    parser.add_argument(
        "--images",
        dest="image_folder",
        type=_images,
        required=True,
        metavar="DIR",
        help="images to choose from: a folder of pictures or .npy arrays, or a data config, also by the name of a "
        "shipped one, such as data/kitchen",
    )
    parser.add_argument("--count", type=whole_number, required=True, metavar="N", help="pick at most this many images")
    add_out(parser)
    add_target(parser)
    add_pixels(parser, size=True)
    images = parser.add_argument_group("which images count")
    images.add_argument(
        "--candidates", type=whole_number, default=96, metavar="N", help="choose from at most this many images"
    )
    images.add_argument(
        "--holdout", type=whole_number, default=16, metavar="N", help="judge on at most this many other images"
    )
    images.add_argument(
        "--judge-on",
        type=Path,
        metavar="DIR",
        help="judge on these images instead, as the network sees them in use",
    )
    images.add_argument("--seed", type=seed_number, default=0, metavar="N", help="of the random sets that are compared")
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Choose, judge and write."""
    from depth_distill.atomic import write_json
    from depth_distill.display.console import wide_console
    from depth_distill.export.pick.outcome import PickOptions
    from depth_distill.export.pick.picking import pick_calibration
    from depth_distill.export.pick.report import FOUND, as_json, require_elsewhere, table, write_choice
    from depth_distill.quantization.target.target import load_target

    require_elsewhere((options.image_folder, options.judge_on), options.out)
    require_own_folder(options.out, FOUND, "pick-calibration")
    console = wide_console()
    asked = PickOptions(
        network=options.network,
        images=options.image_folder,
        count=options.count,
        candidates=options.candidates,
        held_out=options.holdout,
        pixels=pixels_of(options),
        resize=options.resize,
        size=None if options.size is None else tuple(options.size),
        judge_images=options.judge_on,
        seed=options.seed,
        overrides=overrides,
    )
    choice, chosen, inputs, source = pick_calibration(asked, load_target(options.target), console)
    write_choice(choice, chosen, inputs, source, asked, options.out)
    if options.json is not None:
        write_json(options.json, as_json(choice, asked))

    def say(word: str, text: str, style: str = "") -> None:
        console.print(f"{word:8} {text}", soft_wrap=True, highlight=False, style=style)

    say("inputs", str(inputs))
    console.print(table(choice))
    for warning in choice.warnings:
        say("warning", warning, "yellow")
    if choice.price:
        say("warning", choice.price, "yellow")
    for each in choice.stretching[:5]:
        say("stretch", f"{each.image} would add {each.rise:.0%}: it widens {each.site} for all others")
    say(
        "written",
        f"{options.out}: {len(chosen)} images in tensors.txt, input_list.txt, dataset.txt; pick.json, pick.png",
    )
    console.print(choice.verdict, soft_wrap=True, highlight=False, style="bold")


def _images(text: str) -> Path:
    """A folder or file, or a shipped data config by its name."""
    return find_config(text) if text in shipped_names() else Path(text)
