r"""Cost of distillation relative to plain training: time per step, its parts, and peak memory.

    python tools/benchmarks/benchmark.py --teacher-config configs/teacher/resnet18.yaml \
        --config configs/distill/kitchen.yaml

Runs ``fit`` on the built-in scenes ``--repeats`` times for each of these, in turn and each in a new process: supervised
training of the teacher's config, distillation, distillation with a warm teacher cache, and distillation without fake
quantization. The second of two equal epochs is timed. Times are compared within a repeat, because absolute times drift
on a shared machine. Peak memory is the largest resident set of the process; its ratio is given with and without the
0.5 GB or so of an idle process with the libraries loaded. Options that are not listed override both configs.
"""

import argparse
import contextlib
import io
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.table import Table
from typing_extensions import override

from depth_distill.atomic import write_json
from depth_distill.callbacks import FakeQuant, TeacherCache
from depth_distill.display.console import plain_console
from depth_distill.exit_codes import exit_code
from depth_distill.lightning_cli import DepthCLI, build_cli

SUPERVISED = "supervised"
VARIANTS = (SUPERVISED, "distillation", "with teacher cache", "without fake quantization")
PARTS = ("data", "teacher", "student", "losses", "backward", "optimizer", "other")
_PROFILED = {
    "data": "[_TrainingEpochLoop].train_dataloader_next",
    "step": "[Strategy]SingleDeviceStrategy.training_step",
    "backward": "[Strategy]SingleDeviceStrategy.backward",
    "update": ".optimizer_step",
}


class SecondEpoch(Callback):
    """Times the parts of the second epoch."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("teacher", "student"), 0.0)
        self.seconds_by_part: dict[str, float] = {}
        self._started = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task: Any = pl_module
        task.network.forward = self._timed("student", task.network.forward)
        if hasattr(task, "teacher_outputs"):
            task.teacher_outputs = self._timed("teacher", task.teacher_outputs)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.profiler.recorded_durations.clear()  # type: ignore[attr-defined]
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self._started = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = time.perf_counter() - self._started
        recorded = trainer.profiler.recorded_durations  # type: ignore[attr-defined]
        found = {
            part: sum(sum(times) for name, times in recorded.items() if name.endswith(ending))
            for part, ending in _PROFILED.items()
        }
        seconds = {"data": found["data"], **self.seconds, "backward": found["backward"]}
        seconds["losses"] = found["step"] - sum(self.seconds.values())
        # The optimizer's step runs the closure that does the forward and backward pass.
        seconds["optimizer"] = found["update"] - found["step"] - found["backward"]
        seconds["other"] = total - sum(seconds.values())
        self.seconds_by_part = {"total": total} | {part: seconds[part] for part in PARTS}

    def _timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*arguments)
            finally:
                self.seconds[part] += time.perf_counter() - started

        return timed


def measure(variant: str, argv: Sequence[str], folder: str) -> dict[str, float]:
    """Fit one variant for two epochs in this process; returns seconds by part, and initial and peak memory in MB."""
    warnings.filterwarnings("ignore")
    if multiprocessing.get_start_method() == "spawn" and "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork", force=True)  # the timed functions cannot be pickled for loader workers
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = [
        "--run_dir",
        f"{folder}/run",
        "--trainer.max_epochs=2",
        "--trainer.limit_val_batches=0",
        "--checkpoint.monitor=null",
    ]
    cli = build_cli(DepthCLI, [*argv, *run, "--trainer.profiler=simple"], run=False)
    timer, trainer = SecondEpoch(), cli.trainer
    trainer.callbacks.append(timer)  # type: ignore[attr-defined]
    if variant == "with teacher cache":
        trainer.callbacks.insert(0, TeacherCache(Path(folder) / "cache"))  # type: ignore[attr-defined]
    if variant == "without fake quantization":
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, FakeQuant):
                callback.start_epoch = 2
    with contextlib.redirect_stdout(io.StringIO()):  # the profiler's own table
        trainer.fit(cli.model, cli.datamodule)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**timer.seconds_by_part, "idle_mb": idle / 1024, "peak_mb": peak / 1024}


def main(args: Sequence[str] | None = None) -> int:
    """Measure, compare, print, and optionally write JSON; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/distill/kitchen.yaml", help="config of the distillation")
    parser.add_argument(
        "--teacher-config", default="configs/teacher/resnet18.yaml", help="config of supervised training"
    )
    parser.add_argument("--batches", type=int, default=12, help="steps per epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options, overrides = parser.parse_known_args(args)
    return exit_code(lambda: _work(options, overrides))


def _work(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    scenes = '{"class_path": "SyntheticDepth", "init_args": {"length": %d, "seed": %d}}'
    console = plain_console()
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.repeats):
        for variant in VARIANTS:
            config = options.teacher_config if variant == SUPERVISED else options.config
            data = [f"--data.train={scenes % (16 * options.batches, 0)}", f"--data.val={scenes % (16, 1)}"]
            data += ["--data.views=1", "--data.batch_size=16", "--data.num_workers=1", "--data.calibration_size=16"]
            with tempfile.TemporaryDirectory() as folder:
                argv = ["--config", config, *data, "--trainer.enable_model_summary=false", *overrides]
                argv += ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
                context = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(1, context) as pool:
                    found[variant].append(pool.submit(measure, variant, argv, folder).result())
            console.print(f"{variant:28s} {found[variant][-1]['total']:.1f} s", highlight=False)
    ratios = {variant: _ratios(found[variant], found[SUPERVISED]) for variant in VARIANTS}
    table = Table(title=f"Medians of {options.repeats} repeats of {options.batches} steps; time in ms per step")
    for column in ("", "ms", "x supervised", *PARTS, "peak MB", "x", "x without idle"):
        table.add_column(column, justify="right" if column else "left")
    for variant, rows in found.items():
        milliseconds = [
            f"{1000 * statistics.median(row[part] for row in rows) / options.batches:.0f}" for part in ("total", *PARTS)
        ]
        time_x, memory_x, net_x = ratios[variant]
        peak = f"{statistics.median(row['peak_mb'] for row in rows):.0f}"
        cells = [milliseconds[0], f"{time_x:.2f}", *milliseconds[1:], peak, f"{memory_x:.2f}", f"{net_x:.2f}"]
        table.add_row(variant, *cells)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)
    gap = [
        (row["student"] + row["backward"]) - (off["student"] + off["backward"])
        for row, off in zip(found["distillation"], found["without fake quantization"], strict=True)
    ]
    console.print(f"fake quantization: {1000 * statistics.median(gap) / options.batches:.0f} ms per step, both passes")
    if options.out is not None:
        write_json(options.out, {"batches": options.batches, "measured": found, "ratios": ratios})


def _ratios(rows: Sequence[dict[str, float]], plain: Sequence[dict[str, float]]) -> tuple[float, float, float]:
    """Medians over repeats of the ratios to supervised training: time, peak memory, and peak minus idle memory."""
    pairs = list(zip(rows, plain, strict=True))
    return (
        statistics.median(row["total"] / base["total"] for row, base in pairs),
        statistics.median(row["peak_mb"] / base["peak_mb"] for row, base in pairs),
        statistics.median(
            (row["peak_mb"] - row["idle_mb"]) / (base["peak_mb"] - base["idle_mb"]) for row, base in pairs
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
