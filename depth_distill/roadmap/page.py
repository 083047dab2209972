"""The page of a roadmap: its tables, its picture, and how far it has come."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depth_distill.errors import ConfigError
from depth_distill.roadmap.report import columns, float_abs_rel, rows, summarize
from depth_distill.runs import ROADMAP_FILE, settled
from depth_distill.tracking.run_report.folder import read_record
from depth_distill.tracking.run_report.page import Page, Picture, Section, Table


def roadmap_page(path: Path) -> Page:
    """The page of a folder with ``roadmap.json``.

    Raises:
        ConfigError: that file is not the record of a roadmap, or has no result yet.
    """
    folder = settled(path)
    notes: list[str] = []
    found = read_record(folder / ROADMAP_FILE, notes)
    try:
        networks = {title: network for title, network in found["networks"].items() if network["rows"]}
        found = {**found, "networks": networks}
        tables = [_table(found, title) for title in networks]
        verdict = [_verdict(title, network) for title, network in networks.items()]
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(
            f"{path / ROADMAP_FILE} is not the record of a roadmap; give the folder of depth-distill roadmap"
        ) from error
    if not networks:
        raise ConfigError(f"{path / ROADMAP_FILE} has no result yet: let depth-distill roadmap measure a row first")
    picture = folder / "roadmap.png"
    content = picture.read_bytes() if picture.is_file() else b""
    pictures = [Picture(picture.name, content)] if content.startswith(b"\x89PNG") else []
    lines = [f"{found.get('protocol', '')}; ± is the standard deviation over seeds."]
    sections = [Section("Rows", lines, tables=tables)]
    sections += [Section("abs_rel over FP32", pictures=pictures)] if pictures else []
    return Page("Roadmap from FP32 to INT8", str(folder), verdict, notes, sections=sections)


def _table(found: Mapping[str, Any], title: str) -> Table:
    body = [[name, *cells] for name, cells in rows(found, title).items()]
    return Table(["row", *columns(found)], body, title)


def _verdict(title: str, network: Mapping[str, Any]) -> str:
    """The best row that is not float, against the float one."""
    exact = float_abs_rel(network)
    measured = {
        name: summarize(results)["abs_rel"][0]
        for name, results in network["rows"].items()
        if summarize(results) and not any(each.get("float") for each in results.values())
    }
    if not measured:
        return f"{title}: no INT8 row is measured yet."
    best = min(measured, key=lambda name: measured[name])
    name = f"{title}: " if title else ""
    return f"{name}{best} is the best row with abs_rel {measured[best]:.4f}, {measured[best] / exact:.3f} times FP32."
