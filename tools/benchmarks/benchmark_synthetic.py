"""Images per second of ``SyntheticDepth`` on one core, its depth distribution, and optionally a contact sheet.

    python tools/benchmarks/benchmark_synthetic.py --repeats 5 --out contact_sheet.png

CPU time is that of this process only, so it is stable on a shared machine; wall time is also shown.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from rich.table import Table

from depth_distill.data.synthetic import SyntheticDepth
from depth_distill.display.console import plain_console
from depth_distill.display.pictures import DEPTH_COLORS, NO_DEPTH_GREY, save_figure

BANDS_M = (0.5, 2.0, 5.0, 15.0)


def time_once(dataset: SyntheticDepth) -> tuple[float, float]:
    """CPU and wall seconds to load every sample."""
    cpu, wall = time.process_time(), time.perf_counter()
    for index in range(len(dataset)):
        dataset.load(index)
    return time.process_time() - cpu, time.perf_counter() - wall


def band_shares(dataset: SyntheticDepth) -> tuple[list[float], float]:
    """Share of the valid pixels in each band of ``BANDS_M``, and share of invalid pixels among all."""
    counts, invalid, pixels = np.zeros(len(BANDS_M) - 1), 0, 0
    for index in range(len(dataset)):
        sample = dataset.load(index)
        counts += np.histogram(sample.depth_m[sample.valid].numpy(), BANDS_M)[0]
        invalid += int((~sample.valid).sum())
        pixels += sample.valid.numel()
    return list(counts / counts.sum()), invalid / pixels


def contact_sheet(dataset: SyntheticDepth, columns: int) -> Figure:
    """Images in columns, each with its depth (log scale) to the right."""
    low, high = np.log(dataset.depth_range.min_m), np.log(dataset.depth_range.max_m)
    colormap = colormaps[DEPTH_COLORS].with_extremes(bad=(NO_DEPTH_GREY,) * 3)
    rows = -(-len(dataset) // columns)
    figure = Figure(figsize=(3.2 * columns, 1.25 * rows))
    figure.subplots_adjust(0, 0, 1, 1, 0.02, 0.02)
    axes = figure.subplots(rows, 2 * columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for index in range(len(dataset)):
        sample = dataset.load(index)
        row, column = divmod(index, columns)
        axes[row, 2 * column].imshow(sample.image.permute(1, 2, 0).numpy())
        depth_m = np.where(sample.valid[0], sample.depth_m[0], np.nan)
        axes[row, 2 * column + 1].imshow(np.log(depth_m), cmap=colormap, vmin=low, vmax=high, interpolation="nearest")
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Time, print, and optionally write a contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=200, help="images per repeat")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write a contact sheet of the first images as PNG")
    parser.add_argument("--pictures", type=int, default=48, help="images on the contact sheet")
    options = parser.parse_args(args)

    torch.set_num_threads(1)
    size = (options.size[0], options.size[1])
    dataset = SyntheticDepth(options.length, size, options.seed)
    dataset.load(0)
    seconds = [time_once(dataset) for _ in range(options.repeats)]
    table = Table(title=f"images/s at {size[0]} x {size[1]}, {options.repeats} repeats of {options.length}, 1 thread")
    for column in ("", "median", "lowest", "highest"):
        table.add_column(column, justify="right" if column else "left")
    for name, times in zip(("CPU time", "wall time"), zip(*seconds, strict=True), strict=True):
        rates = [options.length / t for t in times]
        table.add_row(name, *(f"{f(rates):.0f}" for f in (statistics.median, min, max)))
    console = plain_console()
    console.print(table)
    shares, invalid = band_shares(dataset)
    for low, high, share in zip(BANDS_M, BANDS_M[1:], shares, strict=False):
        console.print(f"{low:g}-{high:g} m: {share:.1%} of the valid pixels")
    console.print(f"not valid: {invalid:.1%} of all pixels")
    if options.out is not None:
        save_figure(contact_sheet(SyntheticDepth(options.pictures, size, options.seed), columns=4), options.out)
        console.print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
