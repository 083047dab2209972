"""The outcome of a hardening: what was asked for, measured, decided and returned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depth_distill.data.network_inputs import PixelFormat
from depth_distill.errors import ConfigError
from depth_distill.quantization.analysis.deviation import Deviation
from depth_distill.quantization.passes.auto import Effort
from depth_distill.quantization.recipe import Recipe, load_recipe
from depth_distill.quantization.recipe_search import RecipeSearch
from depth_distill.quantization.target.target import NpuTarget
from depth_distill.types import ResizeMode

TENSORS, SOURCES = "tensors.txt", "sources.txt"
"""Lists in the folder of calibration inputs: its files, and those that they were made of."""


@dataclass(frozen=True)
class HardenOptions:
    """Options of a hardening.

    Attributes:
        source: an ``.onnx`` file, a ``.ckpt`` of a run, or a config.
        images: folder of pictures or ``.npy`` arrays, without ground truth.
        out: the new ONNX file.
        recipe: passes to try; with ``auto``, those that are found.
        effort: how much ``auto`` tries; that of the recipe unless given.
        calibration_images: number of images to calibrate on, at most.
        held_out: number of further images to judge on, at most.
        pixels: how pixels become the input; by default as the source says, and ImageNet's normalization otherwise.
        resize: how pictures of another aspect ratio come to the size of the input; by default as the source says, and
            ``crop`` otherwise.
        size: height and width, for a file in which they are dynamic.
        overrides: options that change the network of a checkpoint or config.
    """

    source: Path
    images: Path
    out: Path
    recipe: Recipe = field(default_factory=lambda: load_recipe("auto"))
    effort: Effort | None = None
    calibration_images: int = 64
    held_out: int = 16
    pixels: PixelFormat | None = None
    resize: ResizeMode | None = None
    size: tuple[int, int] | None = None
    overrides: Sequence[str] = ()

    @property
    def calibration(self) -> Path:
        """Folder of the inputs that were calibrated on, beside the new file."""
        return self.out.with_suffix(".calibration")


def is_calibration(folder: Path) -> bool:
    """Whether an earlier hardening wrote the files of a folder."""
    return all((folder / name).is_file() for name in (TENSORS, SOURCES))


def require_own_calibration(folder: Path) -> None:
    """Refuse a folder of calibration inputs that holds anything but those of an earlier hardening.

    Raises:
        ConfigError: it is a file, or has files of somebody else.
    """
    taken = folder.exists() and not is_calibration(folder)
    if taken and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} has files of somebody else: choose another --out, or move them away")


@dataclass(frozen=True)
class LayerRow:
    """A layer before and after.

    Attributes:
        name: its path in the graph, or that of an operator without weight.
        node: its name in the ONNX file, where it is another.
        before_db: SQNR of its output in dB with the untouched network quantized.
        after_db: the same of the network that is returned; None if it has no such operator.
        pinned: why its channels could not be rescaled; empty if they could.
        is_layer: whether it has a weight.
    """

    name: str
    node: str
    before_db: float
    after_db: float | None
    pinned: str
    is_layer: bool

    @property
    def title(self) -> str:
        """The name that a person knows it by: that in the file."""
        return self.node or self.name


@dataclass(frozen=True)
class Verdict:
    """What the judge measured, and what is returned.

    Attributes:
        judge: whose PTQ it was.
        before: deviation of the untouched network; None if it cannot be quantized.
        after: deviation of what is returned.
        recipe: passes of what is returned.
        hardened: whether this is anything but the untouched file.
        float_change: deviation of what is returned from the untouched network, both in FP32.
        notes: what a person should know about the decision.
    """

    judge: str
    before: Deviation | None
    after: Deviation
    recipe: Recipe
    hardened: bool
    float_change: Deviation | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hardening:
    """The whole outcome, for the report.

    Attributes:
        options: what was asked for.
        target: the NPU.
        inputs: how images became inputs, in words.
        search: the candidates, by this package's simulation.
        verdict: the decision.
        layers: every layer and rounded operator in graph order.
        summaries: what each pass of the returned recipe did, by name of the pass.
        calibration: files that were calibrated on.
        held_out: number of images that were judged on.
        warnings: what makes the numbers less certain.
    """

    options: HardenOptions
    target: NpuTarget
    inputs: str
    search: RecipeSearch
    verdict: Verdict
    layers: tuple[LayerRow, ...]
    summaries: tuple[tuple[str, str], ...]
    calibration: tuple[Path, ...]
    held_out: int
    warnings: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        before, after = self.verdict.before, self.verdict.after
        names = f"{self.options.out.name}", f"{self.options.source.name}"
        if not self.verdict.hardened:
            return (
                f"nothing helped: the untouched network was returned as {names[0]} "
                f"(INT8 deviation: {sqnr_and_error(after)[0]} SQNR, {sqnr_and_error(after)[1]} relative error)"
            )
        one = ("not quantizable", "-") if before is None else sqnr_and_error(before)
        two = sqnr_and_error(after)
        return (
            f"INT8 deviation: {one[0]} -> {two[0]} SQNR ({one[1]} -> {two[1]} relative error); "
            f"{names[0]} takes the place of {names[1]}"
        )


def sqnr_and_error(deviation: Deviation) -> tuple[str, str]:
    """SQNR in dB and relative error in percent."""
    percent = 100 * deviation.relative
    if not math.isfinite(percent):
        return "NaN", "NaN"
    return f"{deviation.sqnr_db:.1f} dB", f"{percent:.3g} %"


def as_json(found: Hardening) -> dict[str, Any]:
    """The record of a hardening."""
    verdict = found.verdict
    return {
        "source": found.options.source.name,
        "out": found.options.out.name,
        "target": found.target.to_dict(),
        "inputs": found.inputs,
        "verdict": found.sentence,
        "hardened": verdict.hardened,
        "judge": verdict.judge,
        "before": None if verdict.before is None else verdict.before.to_dict(),
        "after": verdict.after.to_dict(),
        "float_change": None if verdict.float_change is None else verdict.float_change.to_dict(),
        "recipe": verdict.recipe.to_dict(),
        "passes": [{"name": name, "summary": summary} for name, summary in found.summaries],
        "search": found.search.to_dict(),
        "layers": [
            {
                "name": each.name,
                "node": each.node or None,
                "sqnr_before_db": each.before_db,
                "sqnr_after_db": each.after_db,
                "pinned": each.pinned or None,
            }
            for each in found.layers
        ],
        "calibration": [str(path) for path in found.calibration],
        "held_out_images": found.held_out,
        "notes": list(verdict.notes),
        "warnings": list(found.warnings),
    }
