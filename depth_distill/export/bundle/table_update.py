"""Give an existing bundle a decode table, without another export."""

import html
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from depth_distill.atomic import atomic_path
from depth_distill.display.pictures import save_figure
from depth_distill.errors import ConfigError
from depth_distill.export.bundle.artifacts import METRIC_INT8, write_metric_int8
from depth_distill.export.bundle.bundle import (
    Bundle,
    load_bundle,
    put_in_place,
    recover,
    require_replaceable,
    work_folder,
)
from depth_distill.export.bundle.decode_table import PICTURE, DecodeTable, write_bundle_decoders
from depth_distill.export.bundle.manifest import TABLE, write_manifest
from depth_distill.export.interface.decoders import IntegerCodes
from depth_distill.loading.onnx_importer.files import opset_of, read_onnx

_REFUSED = "decode_table_refused"
_NEWER = "Newer than this report:"


def update_table(bundle: Bundle, table: DecodeTable, picture: Figure, integers: IntegerCodes | None = None) -> Bundle:
    """Replace a bundle by one with a decode table; a failure leaves the old one as it was.

    Decoders, ``model.metric_int8.onnx``, picture and manifest are new; the reports say so in one line, and their
    figures stay those of the export.

    Args:
        bundle: the bundle.
        table: what was fitted, with tables.
        picture: the curves.
        integers: 8-bit integers that the device returns; those of ``model.int8.onnx`` are of another quantizer. Where
            they are not known, ``decode.h`` has no table of depth by integer.

    Returns:
        The new bundle, in the same folder.

    Raises:
        ConfigError: the folder holds files that are not the bundle's, or there is an unfinished export beside it.
    """
    out = bundle.folder.absolute()
    require_replaceable(out)
    recover(out)
    work = work_folder(out)
    if work.exists() and any(work.iterdir()):
        raise ConfigError(f"{work} is an unfinished export to this bundle: finish it, or delete it")
    folder = work / "bundle"
    try:
        shutil.copytree(out, folder, ignore=shutil.ignore_patterns("__pycache__"))
        manifest = _with_table(bundle, table)
        codec, layout = table.codec(bundle.codec), bundle.layout
        write_bundle_decoders(bundle.codec, codec, layout, folder, integers, table.source)
        if codec is not None and "int8" in bundle.artifacts:
            why = write_metric_int8(folder / bundle.artifact("int8").name, codec, layout)
            manifest["artifacts"] = {
                **{kind: name for kind, name in bundle.manifest["artifacts"].items() if kind != "metric_int8"},
                **({} if why else {"metric_int8": METRIC_INT8}),
            }
            manifest["opsets"] = {
                **{kind: opset for kind, opset in bundle.manifest.get("opsets", {}).items() if kind != "metric_int8"},
                **({} if why else {"metric_int8": opset_of(read_onnx(folder / METRIC_INT8, weights=False))}),
            }
        save_figure(picture, folder / PICTURE)
        _note(folder, table.line)
        write_manifest(folder, manifest)
        put_in_place(folder, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return load_bundle(out)


def _with_table(bundle: Bundle, table: DecodeTable) -> dict[str, Any]:
    """The manifest with the table, and without figures of another one."""
    old: Mapping[str, Any] = bundle.manifest
    manifest = {key: value for key, value in old.items() if key not in ("schema_version", "files", TABLE, _REFUSED)}
    manifest |= table.to_manifest(bundle.codec)
    metrics = old.get("metrics")
    if isinstance(metrics, Mapping):
        of_others = (row for row in metrics.get("rows", ()) if row.get("artifact") != "metric_int8")
        rows = [{**row, "with_table": None} for row in of_others]
        manifest["metrics"] = {**metrics, "rows": rows, "decode_table": [table.line]}
    return manifest


def _note(folder: Path, line: str) -> None:
    """Say at the top of the reports, which are of the export, that the table is newer."""
    said = f"{_NEWER} {line}"
    for name, end, note in (
        ("report.html", "</h1>\n", f'<p class="summary">{html.escape(said)}</p>\n'),
        ("report.md", "\n\n", f"{said}\n\n"),
    ):
        path = folder / name
        if not path.is_file():
            continue
        before, found, after = path.read_text(encoding="utf-8").partition(end)
        if after.startswith(note.partition(_NEWER)[0] + _NEWER):
            after = after.partition(note[-2:] if name == "report.md" else "\n")[2]
        with atomic_path(path) as temporary:
            temporary.write_text(before + found + note + after, encoding="utf-8")
