r"""What picking calibration images gains on clean frames, with faulty frames among them, with another place, with few.

    python tools/benchmarks/calibration_sets.py --network CKPT --data data/kitchen --data-root kitchen \
        --other nyuv2/rgb --out benchmarks/calibration_sets

Candidates are frames of the training split, all sets are judged on the same frames of the validation split. The faulty
frames are those that a camera takes by itself: with the lens cap on, against the sun, in the dark with colour noise.
Writes the sets, the outcome of ``depth-distill pick-calibration`` for each, and ``calibration_sets.json``.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from depth_distill.atomic import write_json
from depth_distill.cli import main as depth_distill
from depth_distill.data.network_inputs import spaced
from depth_distill.data.reading import read_image
from depth_distill.display.console import plain_console
from depth_distill.exit_codes import exit_code
from depth_distill.loading.trained import load_data
from depth_distill.shipped_configs import find_config

Picture = NDArray[np.uint8]


def lens_cap(picture: Picture, noise: np.random.Generator) -> Picture:
    """Black, with the noise of a dark sensor."""
    return noise.poisson(0.5, picture.shape).clip(0, 255).astype(np.uint8)


def against_the_sun(picture: Picture, noise: np.random.Generator) -> Picture:
    """Four stops too bright: most of it is white."""
    return (picture.astype(np.float64) * 16).clip(0, 255).astype(np.uint8)


def white(picture: Picture, noise: np.random.Generator) -> Picture:
    """The sun itself."""
    return np.full_like(picture, 255)


def colour_noise(picture: Picture, noise: np.random.Generator) -> Picture:
    """A dark frame at the highest gain: each pixel and colour on its own."""
    return noise.integers(0, 256, picture.shape, dtype=np.uint8)


def broken_transfer(picture: Picture, noise: np.random.Generator) -> Picture:
    """Lower half of the frame lost: stripes of the strongest colours."""
    broken = picture.copy()
    rows = np.arange(picture.shape[0] // 2, picture.shape[0])
    broken[rows] = (np.eye(3, dtype=np.uint8) * 255)[rows // 4 % 3][:, None]
    return broken


FAULTS: Sequence[Callable[[Picture, np.random.Generator], Picture]] = (
    lens_cap,
    against_the_sun,
    white,
    colour_noise,
    broken_transfer,
)


def main(args: Sequence[str] | None = None) -> int:
    """Make the sets, pick from each, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, required=True, help="a .ckpt of a run, or an ONNX file")
    parser.add_argument("--data", required=True, help="a data config, or the name of a shipped one")
    parser.add_argument("--data-root", required=True, help="its data.root")
    parser.add_argument("--other", type=Path, required=True, help="folder of pictures of another place")
    parser.add_argument("--count", type=int, default=16, help="number of images to pick")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(args)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    data, _ = load_data(find_config(options.data), ["--data.root", options.data_root])
    assert data.train is not None
    assert data.val is not None
    train = [Path(data.train.source(index)) for index in spaced(len(data.train), 96)]
    use = [Path(data.val.source(index)) for index in spaced(len(data.val), 32)]
    other = sorted(options.other.rglob("*.[jp][pn]g"))
    noise = np.random.default_rng(0)
    faulty: dict[str, Path | Picture] = {each.stem: each for each in train[: 96 - len(FAULTS)]}
    for fault, frame in zip(FAULTS, train[96 - len(FAULTS) :], strict=True):
        faulty[f"{frame.stem}_{fault.__name__}"] = fault(_pixels(frame), noise)
    mixed = [*train[::2], *(other[index] for index in spaced(len(other), 48))]
    sets: dict[str, Mapping[str, Path | Picture]] = {
        "clean": {each.stem: each for each in train},
        "faulty frames": faulty,
        "another place": {f"{index:02d}_{each.stem}": each for index, each in enumerate(mixed)},
        "few": {each.stem: each for each in train[::8]},
    }
    _write(options.out / "use", {each.stem: each for each in use})
    table = Table(title=f"Deviation from FP32 on {len(use)} images as in use")
    for title in ("set", "images", "picked", "random as many", "worst random", "1 random", "all", "seconds"):
        table.add_column(title, justify="left" if title == "set" else "right")
    found = {}
    for name, images in sets.items():
        folder = options.out / name.replace(" ", "_")
        _write(folder / "images", images)
        words = ["pick-calibration", str(options.network), "--images", str(folder / "images")]
        words += ["--count", str(min(options.count, len(images) // 2)), "--judge-on", str(options.out / "use")]
        code = depth_distill([*words, "--holdout", str(len(use)), "--out", str(folder / "picked")])
        if code:
            return code
        found[name] = json.loads((folder / "picked" / "pick.json").read_text())
        rows, unit = found[name]["rows"], found[name]["unit"]
        numbers = [found[name]["picked_deviation"], rows[-1]["random_mean"], max(rows[-1]["random"])]
        numbers += [rows[0]["random_mean"], found[name]["every"]]
        cells = [f"{each:.1f} {unit}" for each in numbers]
        table.add_row(name, str(len(found[name]["picked"])), *cells, f"{found[name]['seconds']:.0f}")
    plain_console().print(table)
    write_json(options.out / "calibration_sets.json", found)
    return 0


def _write(folder: Path, images: Mapping[str, Path | Picture]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in images.items():
        Image.fromarray(_pixels(each) if isinstance(each, Path) else each).save(folder / f"{name}.png")


def _pixels(path: Path) -> Picture:
    return read_image(path).permute(1, 2, 0).numpy()


if __name__ == "__main__":
    sys.exit(main())
