"""What was asked for and what came out of picking calibration images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from depth_distill.data.network_inputs import PixelFormat
from depth_distill.types import ResizeMode

GAIN = 0.01
"""Sets whose deviations differ by less than this share are as good as each other."""
WORTH = 0.05
"""What is gained has to be this share to be worth a word."""
PRICE = 0.5
"""Rise of the worst image's deviation that is worth a warning."""
Recommended = Literal["picked", "all", "random"]


@dataclass(frozen=True)
class PickOptions:
    """Options of a choice.

    Attributes:
        network: an ``.onnx`` file, a ``.ckpt`` of a run, or a config.
        images: folder of pictures, or of arrays as the network takes them; or a data config, whose training split
            counts.
        count: number of images to pick, at most.
        candidates: number of images to choose from, at most.
        held_out: number of further images to judge on, at most.
        pixels: how pixels become the input, for an ONNX file outside of a bundle.
        resize: how pictures of another aspect ratio come to the size of the input, for an ONNX file outside of a
            bundle.
        size: height and width, for an ONNX file in which they are dynamic.
        judge_images: folder of the images that are judged on, where the candidates are not as in use; by default some
            of ``images``.
        seed: seed of the random sets that are compared.
        overrides: options that change the network of a checkpoint, or the data of a data config.
    """

    network: Path
    images: Path
    count: int
    candidates: int = 96
    held_out: int = 16
    pixels: PixelFormat | None = None
    resize: ResizeMode | None = None
    size: tuple[int, int] | None = None
    judge_images: Path | None = None
    seed: int = 0
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class SizeRow:
    """Deviation on held-out images with so many calibration images.

    Attributes:
        count: number of images.
        picked: with the first ones that were picked; None for more images than were.
        random: with each of some random sets.
    """

    count: int
    picked: float | None
    random: tuple[float, ...]

    @property
    def random_mean(self) -> float:
        """Mean over the random sets: what to expect without choosing."""
        return sum(self.random) / len(self.random)


@dataclass(frozen=True)
class Stretching:
    """An image that would widen ranges by more than it saves.

    Attributes:
        image: its file.
        rise: share by which the expected deviation rises with it.
        site: the tensor whose range it would widen most.
    """

    image: str
    rise: float
    site: str


@dataclass(frozen=True)
class Choice:
    """The outcome.

    Attributes:
        unit: unit of deviations: ``mm`` of depth, or ``%`` of the output where its meaning is not known.
        candidates: number of images that were chosen from.
        held_out: number of others that every number was measured on.
        picked: files of the picked images, the most useful first.
        rows: deviations by number of images; the last row is of as many as were picked.
        every: deviation with all candidates.
        worst: deviation of the worst image with the picked ones, and with all.
        recommended: which set is best on held-out images: it is what is written.
        chosen: files of that set.
        stretching: candidates that widen ranges by more than they save, the worst first.
        warnings: what makes the numbers less certain.
        seconds: time that it took.
    """

    unit: str
    candidates: int
    held_out: int
    picked: tuple[str, ...]
    rows: tuple[SizeRow, ...]
    every: float
    worst: tuple[float, float]
    recommended: Recommended
    chosen: tuple[str, ...]
    stretching: tuple[Stretching, ...]
    warnings: tuple[str, ...]
    seconds: float

    @property
    def picked_deviation(self) -> float:
        """Deviation with the picked images."""
        picked = self.rows[-1].picked
        assert picked is not None
        return picked

    @property
    def verdict(self) -> str:
        """What to calibrate on, in one sentence."""
        picked, random, every = self.picked_deviation, self.rows[-1].random_mean, self.every
        numbers = (
            f"{self.text(picked)} with the {len(self.picked)} picked images, {self.text(random)} with as many random "
            f"ones, {self.text(every)} with all {self.candidates}"
        )
        if self.recommended == "all":
            return f"no set of {len(self.picked)} is as good as all images: calibrate on all of them ({numbers})"
        if self.recommended == "random":
            return f"picking does not help here: a random set is written ({numbers})"
        if picked < (1 - WORTH) * min(random, every):
            return f"calibrate on the picked images: deviation from FP32 {numbers}"
        fewer = next((row for row in self.rows if row.picked is not None and row.picked <= (1 + WORTH) * every), None)
        few = (
            f"; the first {fewer.count} picked ones do as well ({self.text(fewer.picked)})"
            if fewer is not None and fewer.picked is not None and fewer.count < len(self.picked)
            else ""
        )
        return f"little to win here, calibrate on what you like: deviation from FP32 {numbers}{few}"

    @property
    def price(self) -> str:
        """What the best set costs the worst image, where it costs anything."""
        picked, every = self.worst
        if self.recommended != "picked" or picked <= (1 + PRICE) * every:
            return ""
        return (
            f"on the worst image {self.text(every)} with all become {self.text(picked)}: where images like those that "
            "are left out matter in use, give a folder of such with --judge-on"
        )

    def text(self, deviation: float) -> str:
        """A deviation with its unit."""
        return f"{deviation:.3g} {self.unit}" if deviation < 100 else f"{deviation:.0f} {self.unit}"

    def to_dict(self) -> dict[str, Any]:
        """The record."""
        values = asdict(self)
        values["rows"] = [
            {**asdict(row), "random": list(row.random), "random_mean": row.random_mean} for row in self.rows
        ]
        return values | {"picked_deviation": self.picked_deviation, "verdict": self.verdict, "price": self.price}


def recommend(picked: float, random: float, every: float) -> Recommended:
    """The set that is best on held-out images; the picked one where none is better by more than noise."""
    if picked <= (1 + GAIN) * min(random, every):
        return "picked"
    return "all" if every <= (1 + GAIN) * random else "random"
