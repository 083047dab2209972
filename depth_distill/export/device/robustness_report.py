"""What known substitutions would do to a network, before a device is there: the table, a page and JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depth_distill.atomic import write_json
from depth_distill.export.bundle.report import Report, Section, write_page
from depth_distill.export.device.case import Case
from depth_distill.export.device.evidence import evenly
from depth_distill.quantization.analysis.robustness import HEADER, Row, robustness
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold

FOUND, PAGE = "diagnosis.json", "report.html"
IMAGES = 16
_BATCH = 4


def substitutions_of(case: Case, progress: bool = True) -> list[Row]:
    """Every substitution that the network has a place for, on up to 16 images, the most harmful first.

    Args:
        case: network and images.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: the network cannot be traced.
    """
    source = case.source
    height, width = source.shape[-2:]
    graph = fold(trace(source.network, image_size=(height, width)))
    batch = _BATCH if source.batch > 1 else 1
    inputs = torch.stack([case.inputs.load(index) for index in evenly(range(len(case)), IMAGES)])
    batches = [source.interface.feed(each) for each in inputs.split(batch)]

    def depth_of(returned: Any) -> Tensor:
        codes = case.layout.codes({name: each.float() for name, each in _chosen(case, returned).items()})
        depth_m: Tensor = case.codec.decode_with(torch, 1 - codes if case.near_is_one else codes)
        return depth_m

    return robustness(graph, batches, depth_of, progress=progress)


def sentence(rows: Sequence[Row]) -> str:
    """What to look out for, in one sentence."""
    harmful = [each for each in rows if each.verdict != "harmless"]
    if not rows:
        return "the network has no activation that tool chains are known to substitute"
    if not harmful:
        return "no known substitution would move depth by 0.5 % or more"
    worst = harmful[0]
    moved = f"{100 * worst.relative:.1f} %" if worst.drift_mm is None else f"{worst.drift_mm:.1f} mm"
    return (
        f"{len(harmful)} of {len(rows)} known substitutions would show; the worst is {worst.operator} computed as "
        f"{worst.by}, {moved}: {worst.verdict}"
    )


def write_robustness(rows: Sequence[Row], case: Case, out: Path) -> list[Path]:
    """Write ``diagnosis.json`` and ``report.html``; returns them."""
    out.mkdir(parents=True, exist_ok=True)
    title = f"{case.options.network.name}: what a tool chain may compute instead"
    lines = (
        "Nothing is quantized here: each row is what the substitution alone adds. Ask the vendor what the tool chain "
        "computes, or run the network on it: depth-distill diagnose with --backend or --device-outputs.",
    )
    page = Report(
        title, [sentence(rows)], sections=[Section("Substitutions", HEADER, [r.cells() for r in rows], lines)]
    )
    write_page(out / PAGE, page)
    found = {"network": case.options.network.name, "verdict": sentence(rows), "rows": [each.to_dict() for each in rows]}
    write_json(out / FOUND, found)
    return [out / FOUND, out / PAGE]


def _chosen(case: Case, returned: Any) -> dict[str, Tensor]:
    tensors = case.source.interface.outputs.tensors(returned)
    return {name: tensors[name] for name in case.layout.names}
