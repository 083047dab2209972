"""What was picked, as the lists that tool chains read, copies of the images, JSON, and a picture."""

import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table

from depth_distill.atomic import atomic_path, write_json
from depth_distill.data.network_inputs import NetworkInputs
from depth_distill.display.pictures import save_figure, size_curve_with_pictures
from depth_distill.errors import ConfigError
from depth_distill.export.backends.runtime import as_input
from depth_distill.export.harden.sources import Source
from depth_distill.export.interface.calibration_set import write_calibration_set
from depth_distill.export.pick.outcome import Choice, PickOptions

FOUND, PICTURE, DATASET, SOURCES, COPIES = "pick.json", "pick.png", "dataset.txt", "sources.txt", "pictures"
_OWN = ("tensors", "raw", "images", COPIES)
_SHOWN, _LEFT_OUT_SHOWN = 12, 4  # pictures


def require_elsewhere(given: Sequence[Path | None], out: Path) -> None:
    """Refuse images that lie in the folder to write to, whose files are replaced.

    Args:
        given: folders of images.
        out: the folder.

    Raises:
        ConfigError: images lie in it.
    """
    for each in given:
        if each is not None and each.is_dir() and each.resolve().is_relative_to(out.resolve()):
            raise ConfigError(f"the images of {each} lie in --out {out}, whose files are replaced: give another folder")


def write_choice(
    choice: Choice, chosen: Sequence[int], inputs: NetworkInputs, source: Source, options: PickOptions, out: Path
) -> None:
    """Write the recommended set into a folder of its own, in the order of usefulness.

    Args:
        choice: the outcome.
        chosen: which of the inputs the recommended set is.
        inputs: the inputs.
        source: the network.
        options: what was asked for.
        out: the folder; files of an earlier choice in it are replaced.
    """
    tensors = torch.stack([inputs.load(index) for index in chosen])
    if source.takes_uint8:
        tensors, _ = as_input(tensors, torch.uint8, f"{options.images}: the input of {source.file}")
    pictures = np.stack([inputs.picture(k).numpy() for k in chosen]) if inputs.takes_pictures else None
    order = {"picked": "in which they were picked", "all": "of the folder", "random": "in which they were drawn"}
    name = source.interface.inputs.name
    runners = "the scripts in runners/ of a bundle"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".", suffix=".work") as folder:  # the old set stays until the end
        work = Path(folder)
        write_calibration_set(tensors.numpy(), pictures, name, work, order[choice.recommended], runners)
        _write_lines(work / SOURCES, choice.chosen)
        _write_lines(work / DATASET, _copied(choice.chosen, work))
        save_figure(figure(choice, inputs), work / PICTURE)
        write_json(work / FOUND, as_json(choice, options))
        for old in _OWN:
            shutil.rmtree(out / old, ignore_errors=True)
        (out / "images.txt").unlink(missing_ok=True)
        for path in sorted(work.iterdir()):
            path.rename(out / path.name)


def as_json(choice: Choice, options: PickOptions) -> dict[str, object]:
    """The record of a choice."""
    asked = {"network": options.network.name, "asked_for": options.count, "seed": options.seed}
    return asked | choice.to_dict()


def table(choice: Choice) -> Table:
    """Deviation by number of images, picked and random."""
    shown = Table(title=f"Deviation from FP32 [{choice.unit}] on {choice.held_out} other images, by calibration images")
    shown.add_column("images", justify="right")
    for title in ("picked", "random, mean", "random, worst"):
        shown.add_column(title, justify="right")
    for row in choice.rows:
        picked = "-" if row.picked is None else f"{row.picked:.2f}"
        shown.add_row(str(row.count), picked, f"{row.random_mean:.2f}", f"{max(row.random):.2f}")
    shown.add_row(f"all {choice.candidates}", "-", f"{choice.every:.2f}", "-")
    return shown


def figure(choice: Choice, inputs: NetworkInputs) -> Figure:
    """Deviation against the number of images; beside it the first picked images, and those that stretch ranges."""
    by_file = {str(path): index for index, path in enumerate(inputs.files)}

    def thumbnails(files: Sequence[str], title: str) -> list[tuple[str, np.ndarray]]:
        if not inputs.takes_pictures:
            return []
        return [(f"{title} {Path(each).name}", inputs.picture(by_file[each]).numpy()) for each in files]

    shown = thumbnails(choice.picked[:_SHOWN], "")
    shown += thumbnails([each.image for each in choice.stretching[:_LEFT_OUT_SHOWN]], "left out:")
    counts = [row.count for row in choice.rows]
    curves = {
        "picked": [math.nan if row.picked is None else row.picked for row in choice.rows],
        "random, mean": [row.random_mean for row in choice.rows],
    }
    band = ([min(row.random) for row in choice.rows], [max(row.random) for row in choice.rows])
    axis = f"deviation from FP32 [{choice.unit}]"
    return size_curve_with_pictures(counts, curves, band, (f"all {choice.candidates}", choice.every), axis, shown)


def _copied(files: Sequence[str], out: Path) -> list[str]:
    """Copies of the files, numbered in their order; inputs that are no files of their own stand there as tensors."""
    names = []
    for index, each in enumerate(map(Path, files)):
        if not each.is_file():
            names.append(f"images/{index:04d}.png")
            continue
        names.append(f"{COPIES}/{index:04d}_{each.name.replace(' ', '_')}")
        with atomic_path(out / names[-1]) as temporary:
            shutil.copyfile(each, temporary)
    return names


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
