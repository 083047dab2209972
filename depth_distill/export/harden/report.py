"""What a hardening did: one page with its picture, JSON, the calibration inputs, and a table for the terminal."""

import math
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from depth_distill.atomic import atomic_path, write_json
from depth_distill.display.charts import before_after_bars
from depth_distill.display.pictures import save_figure
from depth_distill.export.bundle.report import Report, Section, write_page
from depth_distill.export.harden.outcome import SOURCES, TENSORS, Hardening, LayerRow, as_json, is_calibration
from depth_distill.quantization.analysis.deviation import Deviation
from depth_distill.quantization.recipe_search import TRIAL_HEADER

GOOD_DB, POOR_DB = 30.0, 20.0
_WORST = 5  # layers that the terminal and the summary name
_MOST_BARS = 60  # layers in the picture; of larger networks those with the lowest SQNR
_LONGEST = 50  # name of a layer in the picture; of longer ones the end
_PICTURE = "layers.png"
_UNAVOIDABLE = "an output of the network"
_READER = re.compile(r"read by \S+ \((\w+)\)")  # without its name, so that reasons of a kind count together


def write_results(found: Hardening, calibration: Tensor, html: Path) -> Path:
    """Write the page, ``OUT.json`` and the folder ``OUT.calibration`` beside the new file; returns the folder.

    Args:
        found: the outcome.
        calibration: the inputs that were calibrated on, ``(N, ...)``.
        html: path of the page.
    """
    out = found.options.out
    with tempfile.TemporaryDirectory() as pictures:
        if found.layers:
            save_figure(_figure(found), Path(pictures) / _PICTURE)
        write_page(html, page(found), Path(pictures))
    write_json(out.with_suffix(".json"), as_json(found))
    folder = found.options.calibration
    _write_calibration(folder, calibration, found.calibration)
    return folder


def page(found: Hardening) -> Report:
    """The content of the page."""
    verdict = found.verdict
    summary = [
        found.sentence,
        f"Judged by {verdict.judge} for {found.target.name}, on {found.held_out} images that were not calibrated on "
        f"({len(found.calibration)} others were).",
        f"Inputs: {found.inputs}.",
    ]
    passes = [(name, text) for name, text in found.summaries]
    trials = [each.cells() for each in found.search.trials]
    layers = [
        (each.title, _db(each.before_db), _db(each.after_db), each.pinned or "-")
        for each in sorted(found.layers, key=_after)
    ]
    pinned = [(each.title, each.pinned) for each in found.layers if each.pinned]
    weighted = [each for each in found.layers if each.is_layer]
    sections = [
        Section("What to try next", lines=advice(found)),
        Section(
            "Deviation from FP32",
            ("output", "before [dB]", "before [%]", "after [dB]", "after [%]"),
            _outputs(verdict.before, verdict.after),
            ("RMS of the error over RMS of the FP32 output, per image, then the mean; the worst output counts.",)
            + ((_change(verdict.float_change),) if verdict.float_change is not None else ()),
        ),
        Section("What was done", ("pass", "outcome"), passes, verdict.notes),
        Section(
            "What was tried",
            TRIAL_HEADER,
            trials,
            (f"By this package's simulation of {found.target.name}. A candidate is kept if it gains more than 1 %.",),
        ),
        Section(
            "Layers, the worst first",
            ("layer", "before [dB]", "after [dB]", "pinned"),
            layers,
            ("SQNR of what each layer writes, with the whole network in INT8, by our simulation.",),
            (_PICTURE,) if found.layers else (),
        ),
        Section(
            "What is pinned, and why",
            ("layer", "reason"),
            pinned,
            (f"{len(pinned)} of {len(weighted)} layers have channels that cannot be rescaled exactly.",),
        ),
        Section(
            "Calibration images",
            lines=(
                f"Give your tool chain the {len(found.calibration)} inputs in "
                f"{found.options.calibration.name}/: these are what the file was hardened on.",
            ),
        ),
    ]
    return Report(f"{found.options.source.name}, hardened for {found.target.name}", summary, found.warnings, sections)


def table(found: Hardening) -> Table:
    """The outputs, and the layers that are worst after hardening."""
    shown = Table(title=f"Deviation from FP32 in INT8, by {found.verdict.judge}")
    for title in ("output", "before [dB]", "before [%]", "after [dB]", "after [%]"):
        shown.add_column(title, justify="left" if title == "output" else "right")
    for row in _outputs(found.verdict.before, found.verdict.after):
        shown.add_row(*row)
    return shown


def worst_table(found: Hardening) -> Table:
    """The layers with the lowest SQNR, by our simulation."""
    shown = Table(title="Layers that are worst in INT8, by our simulation")
    for title in ("layer", "before [dB]", "after [dB]", "pinned"):
        shown.add_column(title, justify="right" if "[" in title else "left")
    for each in sorted(found.layers, key=_after)[:_WORST]:
        shown.add_row(each.title, _db(each.before_db), _db(each.after_db), each.pinned)
    return shown


def advice(found: Hardening) -> list[str]:
    """What to try next, in words, the most promising first."""
    after = found.verdict.after.sqnr_db
    lines = []
    if after >= GOOD_DB:
        lines.append(
            f"{after:.1f} dB are {_percent(found.verdict.after)} of error: few networks notice this. Check the metric "
            "that you care about on the device."
        )
    ordered = sorted((each for each in found.layers if not math.isinf(_after(each))), key=_after)
    if after < GOOD_DB and ordered:
        worst = ordered[0]
        lines.append(
            f"Deviation stays at {_after(worst):.1f} dB in {worst.title}: leave it in 16 bits if the NPU can (mixed "
            "precision), or distil: depth-distill fit trains the network in INT8 against itself in FP32, see "
            "docs/distillation.md."
        )
    if after < POOR_DB and found.target.weights.granularity == "per_tensor":
        lines.append(
            f"{found.target.name} has one scale per weight tensor. If the NPU takes one per channel, try --target "
            "per-channel: it costs nothing at run time on most chips."
        )
    tried = {each.name for trial in found.search.trials for each in trial.recipe.passes}
    if after < GOOD_DB and not {"adaround", "reconstruct_blocks"} & tried:
        lines.append("--effort full also reconstructs the rounding of every weight, which takes minutes.")
    kept = [each.pinned for each in found.layers if each.pinned and not each.pinned.endswith(_UNAVOIDABLE)]
    reasons = Counter(_READER.sub(r"read by \1", reason) for reason in kept)
    layers = sum(each.is_layer for each in found.layers)
    if after < GOOD_DB and 3 * sum(reasons.values()) > layers:
        reason, count = reasons.most_common(1)[0]
        lines.append(
            f"{sum(reasons.values())} of {layers} layers are pinned, so that their channels cannot be equalized; of "
            f"{count} the reason is: {reason}. Channels pass through ReLU and zero padding, not through smooth "
            "activations and reflected borders."
        )
    if len(found.calibration) < 32:
        lines.append(
            f"{len(found.calibration)} calibration images are few: 64 or more, as different as in use, give better "
            "ranges."
        )
    if not found.verdict.hardened and after < GOOD_DB:
        lines.append("Nothing that keeps the weights in place helped: the network has to be trained for INT8.")
    return lines or ["Nothing: the deviation is small, and what was tried has been tried."]


def _figure(found: Hardening) -> Figure:
    rows = list(found.layers)
    title = "SQNR of each layer in INT8, in graph order"
    if len(rows) > _MOST_BARS:
        low = sorted(rows, key=_after)[:_MOST_BARS]
        rows = [each for each in rows if each in low]
        title += f" ({_MOST_BARS} lowest of {len(found.layers)})"
    bars = [(_short(each.title), each.before_db, math.nan if each.after_db is None else each.after_db) for each in rows]
    return before_after_bars(bars, "SQNR [dB]", title)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}"


def _write_calibration(folder: Path, inputs: Tensor, files: Sequence[Path]) -> None:
    """One ``.npy`` per input, with a batch of 1, their list, and the files that they were made of."""
    folder.mkdir(parents=True, exist_ok=True)
    if is_calibration(folder):
        for name in (folder / TENSORS).read_text(encoding="utf-8").split():
            (folder / Path(name).name).unlink(missing_ok=True)  # of an earlier run, perhaps with more images
    # The lists first: what a killed process left is then known to be of a hardening.
    lists = {TENSORS: [f"{index:04d}.npy" for index in range(len(inputs))], SOURCES: map(str, files)}
    for name, lines in lists.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for index, each in enumerate(inputs):
        with atomic_path(folder / f"{index:04d}.npy") as temporary:
            np.save(temporary, each[None].numpy(), allow_pickle=False)


def _outputs(before: Deviation | None, after: Deviation) -> list[tuple[str, ...]]:
    rows = []
    for name in sorted(after.by_output, key=lambda each: -after.by_output[each]):
        cells: list[str] = [name]
        for each in (before, after):
            if each is None:
                cells += ["-", "-"]
            else:
                one = Deviation({name: each.by_output[name]}, each.images)
                cells += [f"{one.sqnr_db:.1f}", f"{100 * one.relative:.2f}"]
        rows.append(tuple(cells))
    return rows


def _change(change: Deviation) -> str:
    if change.relative < 1e-5:
        return f"In FP32 the new file computes the same ({100 * change.relative:.1g} % apart)."
    return (
        f"In FP32 the new file is {_percent(change)} from the old one: its weights and biases lie where rounding costs "
        "least."
    )


def _percent(deviation: Deviation) -> str:
    return f"{100 * deviation.relative:.2g} %"


def _after(row: LayerRow) -> float:
    return math.inf if row.after_db is None else row.after_db


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
