"""Images per second of the loader alone, of a bare training loop, and of ``fit``, for one config.

    python tools/benchmarks/benchmark_training.py --config configs/quickstart.yaml --epochs 3 --repeats 3

The three are timed in turn, ``repeats`` times, and compared within a repeat, because absolute times drift on a shared
machine. ``fit`` is that of the command line, with run folder, CSV log and callbacks, but without validation and
checkpoints, which the bare loop lacks.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from rich.table import Table

from depth_distill.atomic import write_json
from depth_distill.callbacks import CheckMonitors, RunSummary
from depth_distill.display.console import plain_console
from depth_distill.lightning_cli import DepthCLI, build_cli


def time_loader(cli: DepthCLI, epochs: int) -> float:
    """Seconds to read and augment ``epochs`` epochs."""
    loader = cli.datamodule.train_dataloader()
    next(iter(loader))  # starts the workers
    started = time.perf_counter()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for _ in loader:
            pass
    return time.perf_counter() - started


def time_bare_loop(cli: DepthCLI, epochs: int) -> float:
    """Seconds of the same forward pass, loss, backward pass, clipping and optimizer step without Lightning."""
    task, clip = cli.model.train(), cli.config.trainer.gradient_clip_val
    loader = cli.datamodule.train_dataloader()
    optimizer = task.optimizer(task._parameter_groups())
    scheduler = task.lr_scheduler(optimizer, epochs * len(loader)) if task.lr_scheduler else None
    next(iter(loader))
    started = time.perf_counter()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            loss = task.loss(task(batch.image), batch.depth_m, batch.valid)["total"]
            optimizer.zero_grad()
            loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(task.parameters(), clip)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return time.perf_counter() - started


def time_fit(cli: DepthCLI, epochs: int) -> float:
    """Seconds of ``fit`` with everything that the command line adds, from the start of each epoch to its last batch."""
    summary = RunSummary(epoch_lines=False)
    trainer = cli.instantiate_trainer(max_epochs=epochs, limit_val_batches=0)
    monitoring = (ModelCheckpoint, CheckMonitors)  # of a validation, which there is none
    kept = [each for each in trainer.callbacks if not isinstance(each, monitoring)]  # type: ignore[attr-defined]
    trainer.callbacks = [summary, *kept]  # type: ignore[attr-defined]
    trainer.fit(cli.model, cli.datamodule)
    return summary.train_s


TIMERS: dict[str, Callable[[DepthCLI, int], float]] = {
    "loader alone": time_loader,
    "bare loop": time_bare_loop,
    "fit": time_fit,
}


def main(args: Sequence[str] | None = None) -> None:
    """Time, compare, print, and optionally write JSON. Unknown options override the config, as in ``fit``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options, overrides = parser.parse_known_args(args)

    images_per_s: dict[str, list[float]] = {name: [] for name in TIMERS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for name, timer in TIMERS.items():
                argv = ["--config", options.config, "--run_dir", f"{folder}/{time.time_ns()}", *overrides]
                cli = build_cli(DepthCLI, argv, run=False)
                cli.datamodule.setup("fit")
                batches = len(cli.datamodule.train_dataloader()) * options.epochs
                images_per_s[name].append(batches * cli.datamodule.batch_size / timer(cli, options.epochs))

    table = Table(title=f"{options.config}: images/s, {options.repeats} repeats of {options.epochs} epochs")
    for column in ("", "median", "lowest", "highest", "cost over the bare loop"):
        table.add_column(column, justify="right" if column else "left")
    costs = {}
    for name, values in images_per_s.items():
        ratios = [bare / value for bare, value in zip(images_per_s["bare loop"], values, strict=True)]
        costs[name] = statistics.median(ratios) - 1
        cost = "-" if name == "loader alone" else f"{costs[name]:+.1%}"
        table.add_row(name, *(f"{f(values):.1f}" for f in (statistics.median, min, max)), cost)
    plain_console().print(table)
    if options.out is not None:
        write_json(options.out, {"config": options.config, "images_per_s": images_per_s, "cost": costs})


if __name__ == "__main__":
    main()
