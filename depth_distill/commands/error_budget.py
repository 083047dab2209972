"""Where the quantization error of a trained network comes from: weights, activations, input, stages, head, codes.

Writes ``error_budget.json`` and ``error_budget.png``. Without ``--config``, the config in the checkpoint's run folder
is used; any key of it can be overridden, as in ``fit``.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from depth_distill.commands.options import CommandParser, add_analysis

if TYPE_CHECKING:
    from depth_distill.quantization.analysis.error_budget import ErrorBudget

EXAMPLE = "depth-distill error-budget --checkpoint runs/NAME/TIME/checkpoints/last.ckpt --out budget"


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_analysis(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Measure, print and write."""
    from depth_distill.commands import analysis
    from depth_distill.display.charts import paired_bars
    from depth_distill.quantization.analysis.error_budget import error_budget

    quantized = analysis.quantize_run(options, overrides)
    budget = error_budget(quantized.quantized, quantized.scorer)
    title, axis = f"Error budget: {quantized.title}", budget.axis
    figure = paired_bars(
        [item.name for item in budget.items],
        (f"{axis.label} with only it rounded", [item.alone[axis.metric] for item in budget.items]),
        (f"{axis.label} with all but it rounded", [item.leave_one_out[axis.metric] for item in budget.items]),
        f"{title}\n{budget.verdict}",
        [
            (name, each[axis.metric], axis.text(each[axis.metric]))
            for name, each in (("FP32", budget.float_metrics), ("INT8", budget.integer_metrics))
        ],
    )
    values = {"title": quantized.title, "protocol": quantized.protocol, **budget.to_dict()}
    table = budget.table(title)
    analysis.report(options.out, "error_budget", values, table, figure, options.json)
    analysis.track(options, "error-budget", table, "error_budget", _named(budget))


def _named(budget: "ErrorBudget") -> dict[str, float]:
    both = {"float": budget.float_metrics, "int8": budget.integer_metrics}
    return {f"{kind}/{name}": value for kind, metrics in both.items() for name, value in metrics.items()}
