"""Which layers to leave in FP16 (or INT16), so that a network reaches an accuracy with the rest in INT8.

    depth-distill mixed-precision --checkpoint runs/.../last.ckpt --target-abs-rel 0.05 --out mixed

Ranks layers by their sensitivity, prints the assignment by threshold, searches the smallest set that reaches the
target, and writes ``mixed_precision.json`` and ``mixed_precision.png`` (size against abs_rel). Options that are not
listed override the config of the run.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence

from rich.console import Console

from depth_distill.commands import analysis
from depth_distill.display.charts import size_curve
from depth_distill.errors import ConfigError
from depth_distill.exit_codes import exit_code
from depth_distill.quantization.analysis.mixed_precision import (
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


def main(args: Sequence[str] | None = None) -> int:
    """Search, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    analysis.add_arguments(parser)
    parser.add_argument("--target-abs-rel", type=float, default=0.05)
    parser.add_argument("--threshold", type=float, default=0.02, help="increase of abs_rel above which a layer is wide")
    parser.add_argument(
        "--high-precision", choices=("fp16", "int16"), default="fp16", help="format of the other layers"
    )
    options, overrides = parser.parse_known_args(args)
    console = Console()

    def work() -> None:
        if not options.target_abs_rel > 0:
            raise ConfigError(f"--target-abs-rel must be positive, received {options.target_abs_rel}")
        check_high_precision_format(load_target(options.target), options.high_precision)  # before any work
        run = analysis.quantize_run(options, overrides)
        unfinished = options.out / "unfinished"
        ranking = sensitivity(run.quantized, run.evaluator, resume=unfinished)
        above = layers_above(ranking, options.threshold)
        by_threshold = MixedNetwork(
            above,
            run.evaluator(set_precision(run.quantized, above, options.high_precision))["abs_rel"],
            megabytes(npu_operators(run.quantized), above, options.high_precision),
        )
        console.print(
            f"layers that cost more than {options.threshold:g} alone: {len(above)}; "
            f"those in {options.high_precision.upper()} give "
            f"abs_rel {by_threshold.abs_rel:.4f} at {by_threshold.megabytes:.2f} MB",
            soft_wrap=True,
        )
        with console.status("searching") as status:
            found = search_mixed_precision(
                run.quantized,
                run.evaluator,
                ranking,
                run.calibration,
                options.target_abs_rel,
                options.high_precision,
                lambda step: status.update(f"{len(step.layers)} layers: abs_rel {step.abs_rel:.4f}"),
                run.target.calibrator,
            )
        title = f"Mixed precision: {run.title}"
        figure = size_curve(
            [(each.megabytes, each.abs_rel) for each in found.curve],
            (found.chosen.megabytes, found.chosen.abs_rel),
            title,
            found.float_abs_rel,
            found.target_abs_rel,
        )
        values = {
            "title": run.title,
            "protocol": run.evaluator.protocol,
            "threshold": options.threshold,
            "by_threshold": vars(by_threshold),
            **found.to_dict(),
        }
        analysis.report(options.out, "mixed_precision", values, found.table(title), figure)
        shutil.rmtree(unfinished)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
