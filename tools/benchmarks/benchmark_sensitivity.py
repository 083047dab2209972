r"""Time of the sensitivity analysis compared with one full evaluation per setting, and their difference.

    python tools/benchmarks/benchmark_sensitivity.py --checkpoint runs/.../last.ckpt \
        --images 32 --out benchmarks/sensitivity

There are two such plain loops: one on images in memory, as in the analysis, and one that reads and resizes the split
for every evaluation, as ``validate`` does. Writes ``benchmark_sensitivity.json``.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from rich.progress import track
from rich.table import Table

from depth_distill.atomic import write_json
from depth_distill.commands import analysis
from depth_distill.commands.options import add_analysis
from depth_distill.display.console import plain_console
from depth_distill.evaluation import Evaluator, InterfaceScorer
from depth_distill.exit_codes import exit_code
from depth_distill.loading.trained import load_run
from depth_distill.quantization.analysis.sensitivity import sensitivity, sensitivity_settings
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.npu_operators import npu_operators


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_analysis(parser)
    options, overrides = parser.parse_known_args(args)
    return exit_code(lambda: _work(options, overrides))


def _work(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    run = analysis.quantize_run(options, overrides)
    trained = load_run(options.checkpoint, options.config, overrides, options.device)

    started = time.perf_counter()
    found = sensitivity(run.quantized, run.scorer)
    seconds = {"sensitivity()": time.perf_counter() - started}
    in_memory, seconds["plain loop, images in memory"] = _plain_loop(run, lambda: run.scorer)
    _, seconds["plain loop, images read each time"] = _plain_loop(run, lambda: trained.evaluator(options.images))

    largest = max(
        abs(each.alone["abs_rel"] - in_memory[f"{each.name} alone"])
        + abs(each.leave_one_out["abs_rel"] - in_memory[f"all but {each.name}"])
        for each in found.layers
    )
    table = Table(title=f"{len(found.layers)} layers, {2 * len(found.layers) + 2} settings: {run.title}")
    table.caption = f"largest difference of abs_rel between sensitivity() and the plain loop: {largest:g}"
    for heading in ("", "s", "times sensitivity()"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.1f}", f"{value / seconds['sensitivity()']:.2f}")
    plain_console().print(table)
    write_json(options.out / "benchmark_sensitivity.json", {"seconds": seconds, "largest_difference": largest})


def _plain_loop(
    run: analysis.QuantizedRun, split: Callable[[], Evaluator | InterfaceScorer]
) -> tuple[dict[str, float], float]:
    started, scores = time.perf_counter(), {}
    settings = sensitivity_settings(npu_operators(run.quantized))
    for name, setting in track(settings.items(), "plain loop", transient=True):
        for site, quantizer in quantizers(run.quantized).items():
            quantizer.enabled = site in setting
        scores[name] = split()(run.quantized)["abs_rel"]
    return scores, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
