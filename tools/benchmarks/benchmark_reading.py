"""Seconds to read large photographs, and to open a long manifest.

    python tools/benchmarks/benchmark_reading.py --size 4000 3000 --image-size 96 128 --rows 200000

Photographs are read as a data set reads them for training: decoded whole and resized, or decoded at a fraction of their
size and resized. The two are timed in turn, because absolute times drift on a shared machine, and compared.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table
from torch import Tensor

from depth_distill.atomic import write_json
from depth_distill.data import ImageFolder, RgbdFolder
from depth_distill.data.transforms import JointResize
from depth_distill.display.console import plain_console


def write_photograph(path: Path, size: tuple[int, int]) -> None:
    """A JPEG of (width, height) with shapes of all sizes, edges and the noise of a sensor."""
    rng = np.random.default_rng(0)
    picture: NDArray[Any] = np.zeros((size[1], size[0], 3), np.float32)
    for cells in (3, 12, 50, 200):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += np.asarray(
            coarse.resize(size, Image.Resampling.NEAREST if cells == 12 else Image.Resampling.BICUBIC)
        )
    noisy = picture / 4 + rng.normal(0, 8, picture.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def time_photographs(size: tuple[int, int], image_size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Median seconds per photograph either way, and the largest and mean difference in levels of 255."""
    seconds: dict[str, list[float]] = {"whole": [], "reduced": []}
    with tempfile.TemporaryDirectory() as folder:
        write_photograph(Path(folder) / "a.jpg", size)
        data = ImageFolder(folder)
        ways: dict[str, Callable[[], Tensor]] = {
            "whole": lambda: JointResize(image_size)(data[0]).image,
            "reduced": lambda: data.at_size(0, JointResize(image_size)).image,
        }
        for _ in range(repeats):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
        difference = (ways["whole"]().int() - ways["reduced"]().int()).abs().float()
    return {f"{name}_s": statistics.median(values) for name, values in seconds.items()} | {
        "largest_difference": difference.max().item(),
        "mean_difference": difference.mean().item(),
    }


def time_manifest(rows: int) -> float:
    """Seconds until a data set knows its samples, for a manifest with that many rows."""
    with tempfile.TemporaryDirectory() as folder:
        lines = (f"scene{row // 1000:03d}/rgb/{row}.jpg,scene{row // 1000:03d}/depth/{row}.png" for row in range(rows))
        (Path(folder) / "train.csv").write_text("\n".join(["image,depth", *lines]))
        started = time.perf_counter()
        len(RgbdFolder(folder))
        return time.perf_counter() - started


def main(args: Sequence[str] | None = None) -> None:
    """Time, print, and optionally write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 3000), metavar=("W", "H"))
    parser.add_argument("--image-size", type=int, nargs=2, default=(96, 128), metavar=("H", "W"))
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(args)

    figures = time_photographs(tuple(options.size), tuple(options.image_size), options.repeats)
    figures["manifest_s"] = time_manifest(options.rows)
    width, height = options.size
    table = Table(title=f"JPEG of {width} x {height} to {tuple(options.image_size)}; {options.rows} rows")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3f}")
    plain_console().print(table)
    if options.out is not None:
        write_json(options.out, figures)


if __name__ == "__main__":
    main()
