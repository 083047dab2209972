"""What a diagnosis found: JSON, a page with its pictures, and tables for the terminal."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from depth_distill.atomic import write_json
from depth_distill.display.diagnosis_picture import CurveOf, diagnosis_picture
from depth_distill.display.pictures import error_map, save_figure
from depth_distill.export.bundle.report import Report, Section, write_page
from depth_distill.export.device.diagnosis import EXPLAINS, Diagnosis
from depth_distill.export.device.patterns import BANDS
from depth_distill.export.device.verdict import PART_MEANINGS, PART_TITLES, verdict

FOUND, PAGE, PICTURE, IMAGES = "diagnosis.json", "report.html", "diagnosis.png", "images.png"
PART_HEADER = ("part", "share [%]", "mm", "abs_rel [%]", "what it is")
_BINS = 64
_SHOWN, _NAMED = 10, 3  # suspects in the picture, and on the terminal


def write_diagnosis(found: Diagnosis, device: str, out: Path) -> list[Path]:
    """Write ``diagnosis.json``, ``report.html`` and the pictures in it.

    Args:
        found: the diagnosis.
        device: where the outputs come from, for people.
        out: folder; it is created if necessary.

    Returns:
        The files that were written.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FOUND, as_json(found, device))
    save_figure(figure(found), out / PICTURE)
    pictures = [PICTURE]
    if found.evidence.case.inputs.takes_pictures:
        save_figure(_images(found), out / IMAGES)
        pictures.append(IMAGES)
    write_page(out / PAGE, _page(found, device, pictures))
    return [out / FOUND, out / PAGE, *(out / name for name in pictures)]


def as_json(found: Diagnosis, device: str) -> dict[str, Any]:
    """The record of a diagnosis."""
    shares, evidence = found.shares, found.evidence
    centres, mean, spread = _curve(found)
    return {
        "network": evidence.case.options.network.name,
        "device": device,
        "images": len(evidence),
        "finding": found.finding,
        "sound": found.sound,
        "verdict": verdict(found),
        "named": None if found.named is None else found.named.title,
        "deviation": {"mean_mm": shares.mean_mm, "relative": shares.relative, "rms_mm": shares.rms_mm},
        "fits_to_mm": found.fitted_mm,
        "expected_after_cure": asdict(found.cured),
        "table": found.fit.to_dict(),
        "parts": {name: asdict(part) for name, part in shares.parts.items()},
        "step": {"distinct_values": list(shares.distinct), "rms_mm": shares.step_mm},
        "place": {
            "bands_px": [list(each) for each in BANDS],
            "bands_mm": [None if np.isnan(each) else each for each in found.patterns.bands_mm],
            "border_ratio": found.patterns.border_ratio,
            "border_share": found.patterns.border_share,
            "seams": {
                "every": found.patterns.period,
                "along": found.patterns.axis,
                "ratio": found.patterns.seam_ratio,
            },
        },
        "curve": {"float": centres.tolist(), "device_mean": mean.tolist(), "device_std": spread.tolist()},
        "suspects": [
            {"name": each.suspect.key, "title": each.title, "explains": _finite(each.explains)} for each in found.tried
        ],
    }


def parts_table(found: Diagnosis) -> Table:
    """The parts of the error, for a terminal."""
    shares = found.shares
    title = f"{shares.mean_mm:.1f} mm from the float network, abs_rel {100 * shares.relative:.2f} %"
    shown = Table(title=title)
    for name in PART_HEADER:
        shown.add_column(name, justify="right" if "[" in name or name == "mm" else "left")
    for row in _part_rows(found):
        shown.add_row(*row)
    return shown


def tried_lines(found: Diagnosis) -> list[str]:
    """The suspects that explain most, for a terminal."""
    some = [each for each in found.tried[:_NAMED] if each.explains > 0]
    lines = [f"tried    {each.title}: explains {100 * each.explains:.1f} % of the squared error" for each in some]
    rest = len(found.tried) - len(some)
    return [*lines, f"tried    {rest} others" if some else f"tried    {rest} suspects: none explains any of it"]


def figure(found: Diagnosis) -> Figure:
    """The picture."""
    case = found.evidence.case
    centres, mean, spread = _curve(found)
    single = case.codec.channels == 1
    ends = (0.0, 1.0) if single else (case.codec.near_m, case.codec.far_m)
    suspect = None
    if single and found.named is not None and found.named.suspect.kind == "curve":
        bent = np.stack([found.named.trial.pair(place)[1] for place in range(len(found.evidence))])
        found_at, means, _ = _binned(found.evidence.expected.ravel(), bent.ravel(), ends)
        suspect = np.interp(centres, found_at, means)
    name = "code" if single else "depth [m]"
    top = found.tried[:_SHOWN]
    return diagnosis_picture(
        verdict(found),
        CurveOf(name, centres, mean, spread, ends, suspect),
        [(PART_TITLES[part], each.share, each.mm) for part, each in found.shares.parts.items()],
        found.shares.mean_map_mm,
        [(each.label, each.explains) for each in top],
        next((place for place, each in enumerate(top) if each is found.named), None),
    )


def _page(found: Diagnosis, device: str, pictures: list[str]) -> Report:
    shares, patterns = found.shares, found.patterns
    distinct = " and ".join(map(str, shares.distinct))
    bands = [f"{low} to {high - 1}" if high - low > 1 else str(low) for low, high in BANDS]
    tried = [(each.title, f"{100 * _finite(each.explains):.1f}", each.suspect.cure) for each in found.tried]
    return Report(
        f"{found.evidence.case.options.network.name} and {device}",
        [
            verdict(found),
            f"{len(found.evidence)} images: {shares.mean_mm:.1f} mm from the float network on average, abs_rel to it "
            f"{100 * shares.relative:.2f} %, root of the mean square {shares.rms_mm:.1f} mm.",
        ],
        sections=[
            Section("What it looks like", pictures=pictures),
            Section(
                "What the error consists of",
                PART_HEADER,
                _part_rows(found),
                (
                    "Shares are of the squared error in metres; mm and abs_rel are by how much the means fall as part "
                    "after part is taken away. All three add up.",
                    f"The output has {distinct} distinct values; rounding to them is {shares.step_mm:.1f} mm (root of "
                    "the mean square).",
                ),
            ),
            Section(
                "A decode table",
                lines=(
                    f"On images that it was not fitted on, depth-distill fit-decoder takes "
                    f"{found.fit.before.mean_mm:.1f} mm to {found.fit.after.mean_mm:.1f} mm.",
                ),
            ),
            Section(
                "Where the error is",
                ("pixels from the border", "mean error [mm]"),
                [
                    (name, "-" if np.isnan(mm) else f"{mm:.1f}")
                    for name, mm in zip([*bands, "inside"], patterns.bands_mm, strict=True)
                ],
                (
                    "Behind a table, without clipped pixels. "
                    + (
                        f"Clearest seams: every {patterns.period} {patterns.axis}, {patterns.seam_ratio:.1f} times as "
                        "steep as elsewhere."
                        if patterns.period
                        else "No seams of tiles."
                    ),
                ),
            ),
            Section(
                "What was tried",
                ("suspect", "explains [%]", "cure"),
                tried,
                (
                    f"Share of the squared error of codes that each explains, on {len(found.evidence.probed)} images. "
                    f"One is named if that is more than {100 * EXPLAINS:.0f} %; below 0 it makes the error larger.",
                ),
            ),
        ],
    )


def _part_rows(found: Diagnosis) -> list[tuple[str, ...]]:
    return [
        (
            PART_TITLES[name],
            f"{100 * part.share:.1f}",
            f"{part.mm:.1f}",
            f"{100 * part.relative:.2f}",
            PART_MEANINGS[name],
        )
        for name, part in found.shares.parts.items()
    ]


def _images(found: Diagnosis) -> Figure:
    """The image in the middle of all by its error, and the worst one."""
    evidence = found.evidence
    case = evidence.case
    true_m, said_m = (case.depth_m(np.clip(each, 0, 1)) for each in (evidence.expected, evidence.device))
    order = np.argsort(np.abs(said_m - true_m).mean((1, 2, 3)))
    rows = []
    for place in dict.fromkeys((int(order[len(order) // 2]), int(order[-1]))):
        picture = case.inputs.picture(evidence.numbers[place]).float() / 255
        rows.append((picture, torch.from_numpy(true_m[place]), torch.from_numpy(said_m[place])))
    return error_map(rows, ("float", "device"))


def _curve(found: Diagnosis) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of codes, or of depth where there are several codes."""
    evidence = found.evidence
    case = evidence.case
    if case.codec.channels == 1:
        return _binned(evidence.expected.ravel(), evidence.device.ravel(), (0.0, 1.0))
    true_m, said_m = (case.depth_m(np.clip(each, 0, 1)) for each in (evidence.expected, evidence.device))
    return _binned(true_m.ravel(), said_m.ravel(), (case.codec.near_m, case.codec.far_m))


def _binned(
    x: NDArray[np.floating], y: NDArray[np.floating], ends: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Means of x in each bin that has values, and mean and standard deviation of y there."""
    bins = np.clip(((x - ends[0]) / (ends[1] - ends[0]) * _BINS).astype(int), 0, _BINS - 1)
    counts, sums_x, sums_y, squares = (
        np.bincount(bins, weights=weights, minlength=_BINS)
        for weights in (np.ones(x.size), x.astype(np.float64), y.astype(np.float64), y.astype(np.float64) ** 2)
    )
    kept = counts > 0
    counts, sums_x, sums_y, squares = (each[kept] for each in (counts, sums_x, sums_y, squares))
    mean = sums_y / counts
    return sums_x / counts, mean, np.sqrt(np.maximum(squares / counts - mean**2, 0))


def _finite(share: float) -> float:
    return share if np.isfinite(share) else -1e9
