"""Baseline: predict the mean depth of the training split for every pixel of the validation split.

    python tools/benchmarks/mean_baseline.py --config configs/quickstart.yaml

Images, valid pixels and metrics are those of ``fit``. A trained network should be far better than this.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track

from depth_distill.atomic import write_json
from depth_distill.data import DepthSplits
from depth_distill.display.console import plain_console
from depth_distill.display.tables import metric_table
from depth_distill.exit_codes import exit_code
from depth_distill.loading.trained import Bands, load_data
from depth_distill.metrics import DepthMetrics


def mean_depth_m(data: DepthSplits) -> float:
    """Mean over all valid pixels of the training split, in metres."""
    total, count = 0.0, 0
    views = data.evaluation_view("train")
    for index in track(range(len(views)), "mean depth of train", transient=True):
        view = views[index]
        depths_m = view.depth_m[view.valid]
        total += depths_m.double().sum().item()
        count += depths_m.numel()
    return total / count


def evaluate_constant(data: DepthSplits, bands_m: Bands, depth_m: float) -> tuple[str, dict[str, float]]:
    """Protocol and metrics of predicting one depth everywhere, on the validation split."""
    metrics = DepthMetrics(data.depth_range, bands_m)
    for batch in track(data.val_dataloader(), "val", transient=True):
        metrics.update(torch.full_like(batch.depth_m, depth_m), batch.depth_m, batch.valid, batch.sample_index)
    return metrics.protocol, {name: value.item() for name, value in metrics.compute().items()}


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print, and optionally write JSON; returns the exit code. Unknown options override the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options, overrides = parser.parse_known_args(args)
    return exit_code(lambda: _work(options, overrides))


def _work(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    data, bands_m = load_data(options.config, overrides)
    data.setup("fit")
    depth_m = mean_depth_m(data)
    protocol, metrics = evaluate_constant(data, bands_m, depth_m)
    plain_console().print(metric_table(f"{depth_m:.3f} m everywhere, val: {protocol}", metrics))
    if options.out is not None:
        write_json(options.out, {"depth_m": depth_m, "protocol": protocol, "metrics": metrics})


if __name__ == "__main__":
    sys.exit(main())
