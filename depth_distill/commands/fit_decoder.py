"""From what a device returned, a decode table that corrects it on the host: no training, nothing changed on the NPU.

A tool chain may compute something else than the network: a hard sigmoid in place of the last sigmoid, a table of a few
bits, an output scale that is a power of two. What it does to the output is then a curve from the device's code to the
float network's, and a table of 256 entries undoes it. The curve is measured on images; ground truth is not needed. It
is judged on images that it was not fitted on, and nothing is written for the host where it does not help there.

NETWORK is the float network: an ONNX file, a checkpoint of a run, or a config. For an ONNX file outside of a bundle,
``--depth-range`` and ``--encoding`` say what its output means. The folder of device outputs has a file per image, of
the same name or numbered from 0000: ``.npy``, ``.npz``, or ``.raw`` without header. Float numbers are codes in [0, 1];
integers are spread over [0, 1] unless ``--scale`` and ``--zero-point`` say otherwise.

Written are ``decode.py`` and ``decode.h``, which decode the device's outputs with the table, ``decode_table.json`` for
``depth-distill evaluate --decode-table``, and the picture of the curve. The exit code is 1 if the table does not help.

A bundle as NETWORK is its float file, with its calibration images unless others are given; ``--update-bundle`` writes
the table into it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depth_distill.commands.device_options import (
    add_meaning,
    add_network_and_images,
    add_reading,
    meaning_of,
    reading_of,
)
from depth_distill.commands.options import CommandParser, add_json, add_out, pixels_of
from depth_distill.commands.values import require_own_folder
from depth_distill.errors import ConfigError

if TYPE_CHECKING:
    from depth_distill.export.bundle.bundle import Bundle

EXAMPLE = """
depth-distill fit-decoder bundle/model.float.onnx --images photos --device-outputs npu --out decoder
depth-distill fit-decoder bundle --device-outputs npu --update-bundle
depth-distill fit-decoder disp.onnx --images photos --device-outputs npu --out d --depth-range 1 9 --encoding inverse
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_network_and_images(parser, bundles=True)
    parser.add_argument(
        "--device-outputs", type=Path, required=True, metavar="DIR", help="what the device returned for them"
    )
    add_out(parser, required=False)
    parser.add_argument(
        "--update-bundle",
        action="store_true",
        help="write the table into the bundle that NETWORK is or belongs to: evaluate, npu-compare and its decoders "
        "use it from then on",
    )
    parser.add_argument(
        "--ground-truth",
        type=Path,
        metavar="DIR",
        help="fit to depth maps (.png in mm, .npy in m; named after the images) in place of the float network",
    )
    add_reading(parser)
    add_meaning(parser)
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Fit, judge and write; 1 if the table does not help."""
    from rich.progress import Progress

    from depth_distill.atomic import write_json
    from depth_distill.display.console import wide_console
    from depth_distill.export.bundle.decode_table import found_table
    from depth_distill.export.bundle.table_update import update_table
    from depth_distill.export.compare.fitted_table import figure, verdict
    from depth_distill.export.device.decoder_fit import FitOptions, fit_decoder
    from depth_distill.export.device.report import FOUND, OF_METRES, as_json, write_fit

    network, images, bundle = _network(options)
    if options.out is not None:
        require_own_folder(options.out, FOUND, "fit-decoder")
    asked = FitOptions(
        network=network,
        images=images,
        device=options.device_outputs,
        reading=reading_of(options),
        meaning=meaning_of(options),
        ground_truth=options.ground_truth,
        pixels=pixels_of(options),
        resize=options.resize,
        overrides=overrides,
    )
    console = wide_console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("images", total=None)
        fitted = fit_decoder(asked, lambda done, of: progress.update(task, completed=done, total=of))
    files = [] if options.out is None else write_fit(fitted, asked, options.out)
    if bundle is not None and fitted.fit.helps:
        found = found_table(fitted, f"the device of {options.device_outputs.name}")
        update_table(bundle, found, figure(fitted), fitted.integers)
        files.append(bundle.folder)
    if options.device_unit == "metres" and fitted.fit.helps:
        console.print(f"note     {OF_METRES}", soft_wrap=True, highlight=False)
    if options.json is not None:
        write_json(options.json, {**as_json(fitted, asked), "verdict": verdict(fitted)})
    seen = ", ".join(map(str, fitted.fit.seen))
    console.print(
        f"fitted   {len(fitted.device)} images, {seen} of 256 codes seen, to {fitted.reference}",
        soft_wrap=True,
        highlight=False,
    )
    if files:
        console.print(f"written  {', '.join(map(str, files))}", soft_wrap=True, highlight=False, markup=False)
    console.print(verdict(fitted), soft_wrap=True, highlight=False, style="bold", markup=False)
    return int(not fitted.fit.helps)


def _network(options: argparse.Namespace) -> "tuple[Path, Path, Bundle | None]":
    """The float network, the images, and the bundle to update, if any.

    Raises:
        ConfigError: something is missing, or there is no such bundle.
    """
    from depth_distill.export.bundle.bundle import bundle_of, load_bundle

    if options.out is None and not options.update_bundle:
        raise ConfigError("where to write is missing: give --out DIR, or --update-bundle")
    network = options.network
    bundle = load_bundle(network) if network.is_dir() else None
    if bundle is not None:
        network = bundle.artifact("float")
    elif options.update_bundle:
        bundle = bundle_of(network) if network.suffix.lower() == ".onnx" else None
        if bundle is None:
            raise ConfigError(f"--update-bundle: {network} is in no bundle; give the folder of one")
        if bundle.kind_of(network) != "float":
            raise ConfigError(f"--update-bundle: a table is fitted to the float file, {bundle.artifact('float')}")
        bundle = load_bundle(bundle.folder)
    images = options.image_folder
    if images is None:
        if bundle is None:
            raise ConfigError("the images are missing: give --images DIR")
        images = bundle.calibration / "tensors"
    return network, images, bundle if options.update_bundle else None
