"""Write the results of an export as a report with pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depth_distill.display.charts import drift_bars
from depth_distill.display.pictures import ComparedRow, compared_panel, save_figure
from depth_distill.evaluation import Evaluator
from depth_distill.export.bundle.before_after import UNTOUCHED, BeforeAfter, section, verdict
from depth_distill.export.bundle.decode_table import PICTURE, DecodeTable
from depth_distill.export.bundle.high_precision_layers import HighPrecisionLayers
from depth_distill.export.bundle.report import Report, RuntimeRow, Section, runtime_section, write_report
from depth_distill.loading.trained import LoadedRun
from depth_distill.quantization.preparation import Prepared
from depth_distill.quantization.recipe_search import TRIAL_HEADER
from depth_distill.quantization.target.substitutions import ITSELF, UNCONFIRMED

_PANELS = 3
_PICTURE = "before_after.png"
_FP16_ON_CPU = (
    "ONNX Runtime's CPU kernels compute FP16 layers in float32, between casts: their time says nothing about an NPU, "
    "and their accuracy is that of FP16 weights."
)
_AIM = 1.02  # abs_rel over that of FP32; more is a warning


@dataclass(frozen=True)
class Results:
    """Results of the steps of an export.

    Attributes:
        title: network, data and target.
        manifest: manifest of the bundle.
        scored: scores before and after, in simulation.
        teacher: metrics of the teacher of a student, or why there are none; empty for other networks.
        verified: result of :func:`~depth_distill.export.bundle.verification.verify`.
        high_precision: layers in FP16.
        passes: name and summary of each pass of the recipe.
        findings: findings of the operator check.
        seconds: duration of each step.
        peak_memory_mb: peak memory of this process.
        kept: steps whose earlier results were reused.
        table: the decode table; None where none was asked for.
    """

    title: str
    manifest: Mapping[str, Any]
    scored: BeforeAfter
    teacher: Mapping[str, float] | str
    verified: Mapping[str, Any]
    high_precision: HighPrecisionLayers
    passes: Sequence[tuple[str, str]]
    findings: Sequence[Mapping[str, str]]
    seconds: Mapping[str, float]
    peak_memory_mb: float
    kept: Sequence[str]
    table: DecodeTable | None = None


def write_results(folder: Path, results: Results, prepared: Prepared, run: LoadedRun, evaluator: Evaluator) -> str:
    """Write ``report.html``, ``report.md`` and their pictures into the bundle; returns the verdict.

    Args:
        folder: folder of the bundle.
        results: what the steps found.
        prepared: the exported network, with the decode table, if any, in its interface.
        run: the trained network and its data.
        evaluator: the validation split.
    """
    verified = results.verified
    rows = [RuntimeRow.from_dict(row) for row in verified["rows"]]
    untouched = [RuntimeRow.from_dict(row) for row in verified["untouched"]]
    sizes = {kind: (folder / name).stat().st_size for kind, name in results.manifest["artifacts"].items()}
    layers = [(each["name"], each["relative"], each["sqnr_db"]) for each in verified["layers"]]
    save_figure(drift_bars(layers, "Drift of INT8 from float, layer by layer"), folder / "layer_drift.png")
    save_figure(_before_after(results.scored, prepared, run, evaluator), folder / _PICTURE)
    teacher = results.teacher
    sections = (
        section(results.scored, None if isinstance(teacher, str) else teacher, verified["protocol"], (_PICTURE,)),
        *_tried(results.scored),
        runtime_section([*untouched, *rows], verified["protocol"]),
        *_table(folder, results.table, verified["rows"]),
        _sizes(sizes, rows, verified, results),
        Section("Layer by layer", pictures=("layer_drift.png",)),
        _checks(results.findings),
        _facts(results),
        Section(
            "Steps",
            ("step", "", "s"),
            [(name, "kept" * (name in results.kept), f"{taken:.1f}") for name, taken in results.seconds.items()],
            (f"Peak memory of the export: {results.peak_memory_mb:.0f} MB; runtimes run in separate processes.",),
        ),
    )
    found = verdict(results.scored, _fitted(results.table, rows), untouched)
    summary = [found, *_summary(rows, verified), *table_lines(results.table, verified["rows"])]
    summary += [teacher] if isinstance(teacher, str) and teacher else []
    write_report(folder, Report(results.title, summary, _warnings(rows, results), sections))
    return found


def table_lines(table: DecodeTable | None, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the decode table does: on held-out calibration images, and on the validation images.

    Args:
        table: the table; None where none was asked for.
        rows: of :func:`~depth_distill.export.bundle.verification.verify`.
    """
    if table is None:
        return []
    lines = [f"{table.line[0].upper()}{table.line[1:]}."]
    row = _fitted(table, [RuntimeRow.from_dict(each) for each in rows])
    if row is not None and (after := row.with_table) is not None:
        assert row.drift_mm is not None
        assert row.drift_rel is not None  # where there are scores, there are all
        lines.append(
            f"On the validation images, {row.artifact} on {row.runtime}: "
            f"{row.drift_mm:.1f} mm ({100 * row.drift_rel:.2f} %) -> "
            f"{after.drift_mm:.1f} mm ({100 * after.drift_rel:.2f} %), "
            f"abs_rel {row.abs_rel:.4f} ({row.ratio:.3f} x FP32) -> {after.abs_rel:.4f} ({after.ratio:.3f} x FP32)."
        )
    return lines


def _fitted(table: DecodeTable | None, rows: Sequence[RuntimeRow]) -> RuntimeRow | None:
    """The row of the file and the tool chain that the table was fitted on."""
    if table is None:
        return None
    return next((row for row in rows if (row.artifact, row.runtime) == (table.artifact, table.source)), None)


def _table(folder: Path, table: DecodeTable | None, rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    if table is None:
        return []
    lines = table_lines(table, rows)
    if table.tables:
        lines.append(
            "decode.py, decode.h and model.metric_int8.onnx have the table; decode_float.py, decode_float.h and "
            "model.metric.onnx, for float and FP16, do not."
        )
    return [Section("Decode table", lines=lines, pictures=[PICTURE] if (folder / PICTURE).is_file() else [])]


def _summary(rows: Sequence[RuntimeRow], verified: Mapping[str, Any]) -> list[str]:
    given = verified["split_images"]
    which = f"all {given}" if verified["images"] == given else f"{verified['images']} of the {given}"
    lines = [f"All scores are those of {which} validation images."]
    ran = [row for row in rows if row.ratio is not None and row.artifact in ("int8", "mixed")]
    vendor = [row for row in rows if row.ratio is not None and " PTQ" in row.runtime]
    for found, what in ((ran, "INT8 and mixed files"), (vendor, "The float file, quantized by the tool chain itself")):
        if found:
            listed = ", ".join(f"{row.artifact} on {row.runtime} {row.ratio:.3f}" for row in found)
            lines.append(f"{what}, times FP32: {listed}.")
    return lines


def _warnings(rows: Sequence[RuntimeRow], results: Results) -> list[str]:
    lines = [results.scored.reason] if results.scored.reason else []
    lines += [f"{row.artifact} on {row.runtime}: refused, see the table" for row in rows if row.error]
    behind_table = _fitted(results.table, rows)
    for row in rows:
        after = row.with_table if row is behind_table else None
        ratio = row.ratio if after is None else after.ratio
        if ratio is not None and ratio > _AIM:
            how = "" if after is None else " through the decode table"
            times = f"abs_rel is {ratio:.3f} times that of FP32{how}"
            lines.append(f"{row.artifact} on {row.runtime}: {times}, more than {_AIM}")
    capabilities = results.manifest["target"]["capabilities"]
    unconfirmed = [name for name, support in capabilities.items() if support == "unconfirmed"]
    if unconfirmed:
        lines.append(f"The target's {', '.join(unconfirmed)} are unconfirmed: test them before you rely on them.")
    for operator, by in results.manifest["target"].get("substitutions", {}).items():
        if by not in (ITSELF, UNCONFIRMED):
            lines.append(
                f"The target computes {operator} as {by}: INT8 as this package computes it has that, the files and the "
                f"tool chains in the table below compute {operator} itself."
            )
    if any("stress" in each for each in results.manifest["recipe"]["passes"]):
        lines.append("This is an experiment: the recipe spreads channel ranges on purpose (stress).")
    return lines


def _tried(scored: BeforeAfter) -> list[Section]:
    """What the recipe ``auto`` tried."""
    if not scored.tried:
        return []
    lines = ["Each behind what was best before it; error and SQNR of the outputs on calibration images held out."]
    return [Section("Recipes that auto tried", TRIAL_HEADER, scored.tried, lines)]


def _sizes(
    sizes: Mapping[str, int], rows: Sequence[RuntimeRow], verified: Mapping[str, Any], results: Results
) -> Section:
    milliseconds, counts = verified["latency_ms"], verified["operator_counts"]
    table: list[Sequence[str]] = []
    for kind in ("int8", "fp16", "mixed", "float", "metric", "metric_int8"):
        if kind not in sizes:
            continue
        count = counts.get(kind)
        table.append(
            (
                kind,
                "ONNX Runtime, 1 thread",
                f"{milliseconds[kind]:.2f}" if kind in milliseconds else "-",
                f"{milliseconds[kind] / milliseconds['float']:.2f}" if kind in milliseconds else "-",
                f"{sizes[kind] / 1e6:.2f}",
                f"{sizes[kind] / sizes['float']:.3f}",
                "-" if count is None else f"{count['integer_convs']} / {count['float_convs']}",
                "-" if count is None else f"{count['quantize']} / {count['avoidable']} / {count['transposes']}",
            )
        )
    for row in rows:
        if row.milliseconds is None:
            continue
        megabytes = sizes[row.artifact] / 1e6
        table.append(
            (
                row.artifact,
                f"{row.runtime} {row.version}",
                f"{row.milliseconds:.2f}",
                "-" if row.latency_ratio is None else f"{row.latency_ratio:.2f}",
                f"{megabytes:.2f}",
                f"{1e6 * megabytes / sizes['float']:.3f}",
                "-",
                "-",
            )
        )
    header = (
        "file", "runtime", "ms an image", "x float file", "MB", "of float", "convs: integer / float",
        "Q/DQ left / avoidable / transposes",
    )  # fmt: skip
    layers = ", ".join(results.high_precision.layers)
    lines = [f"FP16 layers of the mixed file: {results.high_precision.reason}. {layers}".strip()]
    if any(kind in sizes for kind in ("fp16", "mixed")):
        lines.append(_FP16_ON_CPU)
    return Section("Sizes and latency", header, table, lines)


def _checks(findings: Sequence[Mapping[str, str]]) -> Section:
    table = [(each["severity"], each["node"], each["rule"], each["message"], each["remedy"]) for each in findings]
    lines = () if table else ("Every operator fits the target's profile.",)
    return Section("Operators", ("severity", "node", "rule", "found", "remedy"), table, lines)


def _facts(results: Results) -> Section:
    manifest = results.manifest
    image, outputs = manifest["input"], manifest["outputs"]
    facts = [
        ("checkpoint", manifest["checkpoint"]["name"]),
        ("target", f"{manifest['target']['name']}: {manifest['target']['description']}"),
        ("input", f"{image['name']}: {image['dtype']} {image['shape']}, {image['layout']}, {image['colour_order']}"),
        ("resize", f"{image['resize']['mode']} to {image['resize']['width']} x {image['resize']['height']} (W x H)"),
        ("normalization", _normalization(image)),
        ("outputs", ", ".join(outputs["names"])),
        ("decode", manifest["formula"]),
        ("calibration images", str(manifest["calibration"]["images"])),
        ("command", manifest["command"]),
    ]
    facts.insert(2, ("recipe", manifest["recipe"]["name"] or "given as a list"))
    for place, (name, report) in enumerate(results.passes, 3):
        facts.insert(place, (name, report))
    return Section("Network and settings", ("", ""), facts)


def _normalization(image: Mapping[str, Any]) -> str:
    """What the host has to do with pixels."""
    if not image["normalization"]:
        return "in the file"
    mean, std = (", ".join(f"{value:.6g}" for value in image[key]) for key in ("mean", "std"))
    return f"(pixel / 255 - mean) / std; mean {mean}; std {std} (R, G, B)"


def _before_after(scored: BeforeAfter, prepared: Prepared, run: LoadedRun, evaluator: Evaluator) -> Any:
    """Images of the validation split, always the same ones, in FP32, and in INT8 before and after."""
    networks = {"INT8": prepared}
    if scored.untouched is not None and scored.untouched.recipe != prepared.recipe:
        networks = {f"INT8, {UNTOUCHED}": scored.untouched, "INT8, exported": prepared}
    rows = []
    places = torch.linspace(0, len(evaluator.batches) - 1, min(_PANELS, len(evaluator.batches))).long().tolist()
    for place in places:
        batch = evaluator.batches[place]
        image = batch.image[:1].to(evaluator.device)
        with torch.inference_mode():
            exact = run.network.codec.decode(prepared.reference(image))[0]
            others = {name: _depth(each, each.quantized, image)[0] for name, each in networks.items()}
        picture = run.data.normalize.inverse(batch.image[0])
        rows.append(ComparedRow(picture, exact, others, batch.depth_m[0], batch.valid[0]))
    return compared_panel(rows)


def _depth(prepared: Prepared, graph: Callable[[Tensor], Any], image: Tensor) -> Tensor:
    return prepared.interface.depth_m(graph(prepared.interface.feed(image)))
