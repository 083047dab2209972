"""What a device or tool chain did to a network: where the error comes from, and what to do about it.

The float network runs on the images, and what the device returned for them is compared with that: the curve from one to
the other; how much of the error is systematic, clipping, the step of the output, bound to a place or to an image, and
how much is random; and which known fault explains it, such as a last sigmoid that is computed as a hard sigmoid,
exchanged colours, a normalization that is missing or done twice, a flipped or transposed image, int8 read as uint8.
A fault is named only where it explains more than half of the error. The last line is the verdict, with the cure and the
number that it is expected to give.

NETWORK is the float network: an ONNX file, a checkpoint of a run, or a config. For an ONNX file outside of a bundle,
``--depth-range`` and ``--encoding`` say what its output means. ``--device-outputs`` has a file per image as for
fit-decoder; ``--backend`` runs the network on a tool chain instead, quantized by the tool chain itself if it can.

With neither, the table says what each substitution that is known of tool chains would do to this network: what to ask a
vendor before anything is sent to them.

Written are ``diagnosis.json``, ``report.html`` and its pictures. The exit code is 0 where nothing is wrong, and 1 where
something is.
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
from depth_distill.commands.values import require_own_folder, whole_number

if TYPE_CHECKING:
    from rich.console import Console

    from depth_distill.export.device.case import Case

EXAMPLE = """
depth-distill diagnose bundle/model.float.onnx --images photos --device-outputs npu --out diagnosis
depth-distill diagnose bundle/model.float.onnx --images photos --out robustness
depth-distill diagnose disp.onnx --images photos --backend qnn --out d --depth-range 0.5 15 --encoding inverse --near 1
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_network_and_images(parser)
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--device-outputs", type=Path, metavar="DIR", help="what the device returned for the images")
    device.add_argument("--backend", metavar="NAME", help="run it on this tool chain of `depth-distill list backends`")
    add_out(parser)
    chain = parser.add_argument_group("the tool chain")
    chain.add_argument(
        "--calibration-images",
        dest="calibrate_on",
        type=whole_number,
        default=64,
        metavar="N",
        help="let it calibrate on at most this many images; it is judged on others",
    )
    chain.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of its runner; repeatable"
    )
    add_reading(parser)
    add_meaning(parser)
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Compare, try, name and write; 1 if something is wrong."""
    from rich.progress import Progress

    from depth_distill.atomic import write_json
    from depth_distill.display.console import wide_console
    from depth_distill.export.device.case import Case, CaseOptions
    from depth_distill.export.device.diagnosis import diagnose
    from depth_distill.export.device.diagnosis_report import (
        FOUND,
        as_json,
        parts_table,
        tried_lines,
        write_diagnosis,
    )
    from depth_distill.export.device.evidence import collect
    from depth_distill.export.device.tool_chain import run_on
    from depth_distill.export.device.verdict import verdict

    require_own_folder(options.out, FOUND, "diagnose")
    case = Case(
        CaseOptions(
            network=options.network,
            images=options.image_folder,
            device=options.device_outputs,
            reading=reading_of(options, lenient=True),
            meaning=meaning_of(options),
            pixels=pixels_of(options),
            resize=options.resize,
            overrides=overrides,
        )
    )
    console = wide_console()
    if case.note:
        console.print(f"note     {case.note}", soft_wrap=True, highlight=False, markup=False)
    if options.device_outputs is None and options.backend is None:
        return _before_a_device(case, options, console)
    outputs, device = None, str(options.device_outputs)
    if options.backend is not None:
        settings = dict(each.partition("=")[::2] for each in options.option)
        with console.status(f"{options.backend} runs"):
            outputs = run_on(options.backend, case, options.calibrate_on, settings)
        device = outputs.title
        for note in outputs.notes:
            console.print(f"note     {note}", soft_wrap=True, highlight=False, markup=False)
    with Progress(console=console, transient=True) as progress:
        images, suspects = (progress.add_task(name, total=None) for name in ("images", "suspects"))
        evidence = collect(
            case,
            outputs,
            None if outputs is None else outputs.numbers,
            lambda done, of: progress.update(images, completed=done, total=of),
        )
        found = diagnose(evidence, on_suspect=lambda done, of: progress.update(suspects, completed=done, total=of))
    files = write_diagnosis(found, device, options.out)
    if options.json is not None:
        write_json(options.json, as_json(found, device))
    console.print(f"compared {len(evidence)} images, {device}", soft_wrap=True, highlight=False, markup=False)
    console.print(parts_table(found))
    for line in tried_lines(found):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"written  {', '.join(map(str, files))}", soft_wrap=True, highlight=False, markup=False)
    console.print(verdict(found), soft_wrap=True, highlight=False, style="bold", markup=False)
    return int(not found.sound)


def _before_a_device(case: "Case", options: argparse.Namespace, console: "Console") -> int:
    """The table of substitutions."""
    from depth_distill.atomic import write_json
    from depth_distill.export.device.robustness_report import sentence, substitutions_of, write_robustness
    from depth_distill.quantization.analysis.robustness import robustness_table

    rows = substitutions_of(case, console.is_terminal)
    files = write_robustness(rows, case, options.out)
    if options.json is not None:
        write_json(options.json, [each.to_dict() for each in rows])
    if rows:
        console.print(robustness_table(rows))
    console.print(f"written  {', '.join(map(str, files))}", soft_wrap=True, highlight=False, markup=False)
    console.print(sentence(rows), soft_wrap=True, highlight=False, style="bold", markup=False)
    return 0
