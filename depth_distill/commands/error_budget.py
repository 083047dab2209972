"""Where the quantization error of a trained network comes from: weights, activations, input, stages, head, codes.

    depth-distill error-budget --checkpoint runs/teacher-resnet18/<time>/checkpoints/last.ckpt --out budget

Writes ``error_budget.json`` and ``error_budget.png``. Options that are not listed override the config of the run.
"""

import argparse
import sys
from collections.abc import Sequence

from depth_distill.commands import analysis
from depth_distill.display.charts import paired_bars
from depth_distill.exit_codes import exit_code
from depth_distill.quantization.analysis.error_budget import error_budget


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    analysis.add_arguments(parser)
    options, overrides = parser.parse_known_args(args)

    def work() -> None:
        run = analysis.quantize_run(options, overrides)
        budget = error_budget(run.quantized, run.evaluator)
        title = f"Error budget: {run.title}"
        figure = paired_bars(
            [item.name for item in budget.items],
            ("abs_rel with only it rounded", [item.alone["abs_rel"] for item in budget.items]),
            ("abs_rel with all but it rounded", [item.leave_one_out["abs_rel"] for item in budget.items]),
            title,
            [("FP32", budget.float_metrics["abs_rel"]), ("INT8", budget.integer_metrics["abs_rel"])],
        )
        values = {"title": run.title, "protocol": run.evaluator.protocol, **budget.to_dict()}
        analysis.report(options.out, "error_budget", values, budget.table(title), figure)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
