"""Which layers to leave in FP16 (or INT16), so that a network reaches an accuracy with the rest in INT8.

Ranks layers by their sensitivity, prints the assignment by threshold, searches the smallest set that reaches the
target, and writes ``mixed_precision.json`` and ``mixed_precision.png`` (size against abs_rel). Without ``--config``,
the config in the checkpoint's run folder is used; any key of it can be overridden, as in ``fit``.
"""

import argparse
import shutil
from collections.abc import Sequence

from depth_distill.commands.options import CommandParser, add_analysis
from depth_distill.commands.values import finite_number, positive_number

EXAMPLE = """
depth-distill mixed-precision --checkpoint runs/NAME/TIME/checkpoints/last.ckpt --out mixed
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_analysis(parser)
    parser.add_argument(
        "--target-abs-rel",
        type=positive_number,
        metavar="X",
        help="abs_rel that is to be reached (default: 1.02 times that of FP32)",
    )
    parser.add_argument(
        "--threshold",
        type=finite_number,
        default=0.02,
        metavar="X",
        help="increase of abs_rel above which a layer is left in the other format",
    )
    parser.add_argument(
        "--high-precision", choices=("fp16", "int16"), default="fp16", help="format of the layers that are not INT8"
    )


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Search, print and write."""
    from rich.progress import Progress

    from depth_distill.commands import analysis
    from depth_distill.display.charts import size_curve
    from depth_distill.display.console import plain_console
    from depth_distill.quantization.analysis.mixed_precision import (
        RELATIVE_TARGET,
        MixedNetwork,
        check_high_precision_format,
        layers_above,
        megabytes,
        search_mixed_precision,
        set_precision,
    )
    from depth_distill.quantization.analysis.sensitivity import sensitivity
    from depth_distill.quantization.simulate.npu_operators import npu_operators
    from depth_distill.quantization.target.target import load_target

    console = plain_console()
    check_high_precision_format(load_target(options.target), options.high_precision)  # before any work
    quantized = analysis.quantize_run(options, overrides)
    unfinished = options.out / "unfinished"
    ranking = sensitivity(quantized.quantized, quantized.scorer, resume=unfinished)
    above = layers_above(ranking, options.threshold)
    by_threshold = MixedNetwork(
        above,
        quantized.scorer(set_precision(quantized.quantized, above, options.high_precision))["abs_rel"],
        megabytes(npu_operators(quantized.quantized), above, options.high_precision),
    )
    exact = ranking.float_metrics["abs_rel"]
    wanted = RELATIVE_TARGET * exact if options.target_abs_rel is None else options.target_abs_rel
    console.print(
        f"looking for abs_rel {wanted:.4f}, {wanted / exact:.3f} times FP32; pure INT8 has "
        f"{ranking.integer_metrics['abs_rel']:.4f}",
        soft_wrap=True,
        highlight=False,
    )
    console.print(
        f"layers that cost more than {options.threshold:g} alone: {len(above)}; "
        f"those in {options.high_precision.upper()} give "
        f"abs_rel {by_threshold.abs_rel:.4f} at {by_threshold.megabytes:.2f} MB",
        soft_wrap=True,
    )
    # At most one step per layer to add, one to take back, and those of the curve.
    with Progress(*Progress.get_default_columns(), transient=True) as bar:
        task = bar.add_task("searching", total=2 * len(ranking.layers) + len(ranking.layers).bit_length() + 1)
        found = search_mixed_precision(
            quantized.quantized,
            quantized.scorer,
            ranking,
            quantized.prepared.batches,
            wanted,
            options.high_precision,
            lambda step: bar.update(
                task, advance=1, description=f"{len(step.layers)} layers: abs_rel {step.abs_rel:.4f}"
            ),
            quantized.prepared.context.chosen_calibrator,
        )
    title = f"Mixed precision: {quantized.title}"
    figure = size_curve(
        [(each.megabytes, each.abs_rel) for each in found.curve],
        (found.chosen.megabytes, found.chosen.abs_rel),
        title,
        found.float_abs_rel,
        found.target_abs_rel,
    )
    values = {
        "title": quantized.title,
        "protocol": quantized.protocol,
        "threshold": options.threshold,
        "by_threshold": vars(by_threshold),
        **found.to_dict(),
    }
    table = found.table(title)
    analysis.report(options.out, "mixed_precision", values, table, figure, options.json)
    numbers = {
        "float/abs_rel": found.float_abs_rel,
        "int8/abs_rel": ranking.integer_metrics["abs_rel"],
        "chosen/abs_rel": found.chosen.abs_rel,
        "chosen/megabytes": found.chosen.megabytes,
        "chosen/layers": len(found.chosen.layers),
        "target/abs_rel": found.target_abs_rel,
    }
    analysis.track(options, "mixed-precision", table, "mixed_precision", numbers)
    shutil.rmtree(unfinished)
