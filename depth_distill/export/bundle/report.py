"""The report of an export: one structure, written as HTML and as Markdown."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from depth_distill.atomic import atomic_path

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 68em; margin: 2.5em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin-top: 2.2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92em; }
th, td { padding: 0.25em 0.8em; text-align: right; border-bottom: 1px solid #eee; vertical-align: top; }
th.text, td.text { text-align: left; }
th { font-weight: 600; border-bottom: 2px solid #bbb; } td.failed { color: #a33; text-align: left; }
p.summary { font-size: 1.05em; margin: 0.3em 0; } li.warning { color: #8a5a00; } img { max-width: 100%; }
"""
_TEXT = ' class="text"'


@dataclass(frozen=True)
class TableScore:
    """Scores of integer codes that are decoded through the decode table.

    Attributes:
        abs_rel: abs_rel on the validation images.
        ratio: ``abs_rel`` over that of the float network.
        drift_mm: mean difference of the depth from that of the float network.
        drift_rel: the same, over the depth of the float network.
    """

    abs_rel: float
    ratio: float
    drift_mm: float
    drift_rel: float

    @classmethod
    def of(cls, score: Mapping[str, float], float_metrics: Mapping[str, float]) -> "TableScore":
        """From the metrics of an evaluator."""
        abs_rel = score["abs_rel"]
        return cls(abs_rel, abs_rel / float_metrics["abs_rel"], score["drift_mm"], score["drift_rel"])


@dataclass(frozen=True)
class RuntimeRow:
    """Results of one file on one runtime.

    Attributes:
        artifact: kind of the file.
        runtime: tool chain; with "PTQ" if it quantized the float file by itself.
        version: version of the tool chain.
        abs_rel: abs_rel on the validation images.
        ratio: ``abs_rel`` over that of the float network.
        drift_codes: mean difference of the codes from those of the same file on ONNX Runtime without optimization.
        drift_mm: mean difference of the depth from that of the float network.
        milliseconds: latency of one image; None for simulators.
        latency_ratio: latency over that of the float file on the same runtime, in the same run.
        simulator: whether the tool chain simulates a chip.
        notes: settings that had to be made.
        error: reason why the tool chain refused the file, if it did.
        drift_rel: ``drift_mm`` over the depth of the float network.
        with_table: scores through the decode table; None where the codes are not integers, or there is no table.
    """

    artifact: str
    runtime: str
    version: str = ""
    abs_rel: float | None = None
    ratio: float | None = None
    drift_codes: float | None = None
    drift_mm: float | None = None
    milliseconds: float | None = None
    latency_ratio: float | None = None
    simulator: bool = False
    notes: tuple[str, ...] = ()
    error: str | None = None
    drift_rel: float | None = None
    with_table: TableScore | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RuntimeRow":
        """From ``dataclasses.asdict``, as a manifest has it."""
        table = values.get("with_table")
        return cls(
            **{**values, "notes": tuple(values["notes"]), "with_table": None if table is None else TableScore(**table)}
        )


@dataclass(frozen=True)
class Section:
    """A heading with tables, lines and pictures below.

    Attributes:
        title: title of the section.
        header: headings of the table.
        rows: rows of the table, as text.
        lines: paragraphs above the table.
        pictures: names of PNG files in the folder of the report.
    """

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    lines: Sequence[str] = ()
    pictures: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """Content of a report.

    Attributes:
        title: title of the page.
        summary: sentences on the outcome, the most important first.
        warnings: warnings about the use of the files.
        sections: sections in their order.
    """

    title: str
    summary: Sequence[str]
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = field(default_factory=tuple)


RUNTIME_HEADER = ("file", "runtime", "abs_rel", "x FP32", "drift of codes", "drift [mm]")


_TABLE_NOTE = (
    "The last columns are through the decode table: it is for the tool chain that it was fitted on, and for no float "
    "or FP16 file."
)


def runtime_section(rows: Sequence[RuntimeRow], protocol: str) -> Section:
    """A table of every file on every runtime."""
    table: list[Sequence[str]] = []
    notes: list[str] = []
    behind_table = any(row.with_table is not None for row in rows)
    for row in rows:
        runtime = f"{row.runtime} {row.version}".strip() + (" (simulator)" if row.simulator else "")
        if row.error is not None:
            table.append((row.artifact, runtime, f"refused: {row.error.strip().splitlines()[-1]}"))
            continue
        cells = [
            _number(row.abs_rel, 4),
            _number(row.ratio, 3),
            _number(row.drift_codes, 5),
            _number(row.drift_mm, 1),
        ]
        if behind_table:
            after = row.with_table
            behind = (None, None, None) if after is None else (after.abs_rel, after.ratio, after.drift_mm)
            cells += [_number(value, digits) for value, digits in zip(behind, (4, 3, 1), strict=True)]
        table.append((row.artifact, runtime, *cells))
        notes += [f"{row.artifact} on {row.runtime}: {note}" for note in row.notes]
    lines = (
        f"abs_rel: {protocol}. Drift of codes is relative to the same file on ONNX Runtime without optimization (for "
        "PTQ, to the float file); drift in mm is relative to the float network.",
        *([_TABLE_NOTE] if behind_table else []),
        *notes,
    )
    header = (*RUNTIME_HEADER, *(f"{name}, table" for name in ("abs_rel", "x FP32", "drift [mm]") if behind_table))
    return Section("Every file on every runtime", header, table, lines)


def write_report(folder: Path, report: Report) -> None:
    """Write ``report.html``, which contains its pictures, and ``report.md``, which links to them; text is escaped."""
    write_page(folder / "report.html", report)
    with atomic_path(folder / "report.md") as temporary:
        temporary.write_text(_markdown(report), encoding="utf-8")


def write_page(path: Path, report: Report, pictures: Path | None = None) -> None:
    """Write one page that contains its pictures.

    Args:
        path: the new file.
        report: its content.
        pictures: folder of the pictures; that of the page unless given.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(_as_html(pictures or path.parent, report), encoding="utf-8")


def _as_html(folder: Path, report: Report) -> str:
    """One page that contains its pictures, which lie in ``folder``; all text is escaped."""
    parts = [f"<h1>{html.escape(report.title)}</h1>"]
    parts += [f'<p class="summary">{html.escape(line)}</p>' for line in report.summary]
    if report.warnings:
        items = "".join(f'<li class="warning">{html.escape(line)}</li>' for line in report.warnings)
        parts.append(f"<h2>Warnings</h2><ul>{items}</ul>")
    for section in report.sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(line)}</p>" for line in section.lines]
        if section.rows:
            count = len(section.header)
            texts = [_holds_text(section.rows, column, count) for column in range(count)]
            columns = zip(section.header, texts, strict=True)
            head = "".join(f"<th{_TEXT * text}>{html.escape(cell)}</th>" for cell, text in columns)
            body = "".join(_html_row(row, texts) for row in section.rows)
            parts.append(f"<table><tr>{head}</tr>{body}</table>")
        for name in section.pictures:
            data = base64.b64encode((folder / name).read_bytes()).decode()
            parts.append(f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{data}"></p>')
    body = "\n".join(parts)
    title = html.escape(report.title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_CSS}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _html_row(row: Sequence[str], texts: Sequence[bool]) -> str:
    aligned = zip(row, chain(texts, repeat(False)), strict=False)
    cells = [f"<td{_TEXT * text}>{html.escape(cell)}</td>" for cell, text in aligned]
    if len(row) < len(texts):  # the last cell, a reason instead of numbers, spans the rest
        span = len(texts) - len(row) + 1
        cells[-1] = f'<td class="failed" colspan="{span}">{html.escape(row[-1])}</td>'
    return f"<tr>{''.join(cells)}</tr>"


def _holds_text(rows: Sequence[Sequence[str]], column: int, columns: int) -> bool:
    """Whether a column is left-aligned text; one of numbers, with ``-`` for a missing one, is right-aligned."""
    cells = [row[column] for row in rows if column < len(row) - (len(row) < columns)]  # not the reason that spans
    numbers = sum(cell.lstrip("+-")[:1].isdigit() or cell in ("", "-", "nan") for cell in cells)
    return numbers < len(cells) / 2


def _markdown(report: Report) -> str:
    lines = [f"# {_escaped(report.title)}", "", *(f"{_escaped(line)}\n" for line in report.summary)]
    if report.warnings:
        lines += ["## Warnings", "", *(f"- {_escaped(line)}" for line in report.warnings), ""]
    for section in report.sections:
        lines += [f"## {_escaped(section.title)}", "", *(f"{_escaped(line)}\n" for line in section.lines)]
        if section.rows:
            lines += [_markdown_row(section.header), _markdown_row(["---"] * len(section.header))]
            lines += [_markdown_row([*row, *[""] * (len(section.header) - len(row))]) for row in section.rows]
            lines.append("")
        lines += [f"![{name}]({name})\n" for name in section.pictures]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Text as one line of Markdown that shows it as it is: names in it are of files of anybody's."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
