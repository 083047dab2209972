"""Where quantization error comes from: weights, activations, input, stages, head and output codes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from torch import fx

from depth_distill.quantization.analysis.axis import Axis, cost_of_int8, telling_axis
from depth_distill.quantization.analysis.scoring import Scorer
from depth_distill.quantization.analysis.switching import score_settings
from depth_distill.quantization.graph.substituted import substituted
from depth_distill.quantization.simulate.fake_quantize import EnabledSites, quantizers

_FLOAT, _INTEGER = "float", "integer"
_STAGE = "stage "
_STEM = ("stem", "conv", "bn", "norm", "act")  # timm's names of the modules before the stages


@dataclass(frozen=True)
class BudgetItem:
    """One source of error, with the metrics if only it is rounded, and if everything else is."""

    name: str
    quantizers: int
    alone: Mapping[str, float]
    leave_one_out: Mapping[str, float]


@dataclass(frozen=True)
class ErrorBudget:
    """All sources, and metrics of the float and integer networks. Sources overlap: weights are also part of stages."""

    float_metrics: Mapping[str, float]
    integer_metrics: Mapping[str, float]
    items: tuple[BudgetItem, ...]

    @property
    def axis(self) -> Axis:
        """What sources are compared by."""
        return telling_axis(self.float_metrics, self.integer_metrics)

    @property
    def verdict(self) -> str:
        """What INT8 costs and which kind of tensor, and which stage, causes most of it, in a sentence."""
        axis = self.axis
        kinds = [item for item in self.items if not item.name.startswith(_STAGE)]
        stages = [item for item in self.items if item.name.startswith(_STAGE)]
        whole = self.integer_metrics[axis.metric] - self.float_metrics[axis.metric]
        causes = [
            f"{item.name.removeprefix(_STAGE)} {axis.text(self._caused(item))}"
            for item in (max(group, key=self._caused) for group in (kinds, stages) if group)
        ]
        return (
            f"{cost_of_int8(self.float_metrics, self.integer_metrics)}; of {axis.text(whole)}, most comes from "
            f"{' and, by stage, from '.join(causes)} (each rounded alone; they add in squares, and overlap)"
        )

    def _caused(self, item: BudgetItem) -> float:
        return item.alone[self.axis.metric] - self.float_metrics[self.axis.metric]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"metric": self.axis.metric, "verdict": self.verdict}

    def table(self, title: str) -> Table:
        """One row per source: abs_rel against ground truth and, if measured, mean drift from the float network."""
        metrics = [name for name in ("abs_rel", "drift_mm") if name in self.float_metrics]
        table = Table(title=title, caption=self.verdict)
        table.add_column("rounded")
        table.add_column("quantizers", justify="right")
        for heading in (f"{name}{suffix}" for suffix in (", alone", ", all but it") for name in metrics):
            table.add_column(heading, justify="right")
        rows = [
            ("nothing (float)", "", self.float_metrics, None),
            *((item.name, str(item.quantizers), item.alone, item.leave_one_out) for item in self.items),
            ("everything", "", self.integer_metrics, None),
        ]
        for name, count, alone, leave_one_out in rows:
            cells = [_cell(metric, alone) for metric in metrics]
            cells += [_cell(metric, leave_one_out) if leave_one_out is not None else "" for metric in metrics]
            table.add_row(name, count, *cells)
        return table


def error_budget(quantized: fx.GraphModule, scorer: Scorer, progress: bool = True) -> ErrorBudget:
    """Score the network with each source of error alone, and with all others.

    Sources are quantizers by kind (weights, activations between layers, network input, head pre-activation, output
    codes) and by stage, weights and activations together; and the activations that the target substitutes.

    Args:
        quantized: network from ``fake_quantize``, with ranges; it is not changed.
        scorer: images and metrics.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: a quantizer has no range.
    """
    sources = error_sources(quantized)
    every: EnabledSites = frozenset(quantizers(quantized)) | frozenset(substituted(quantized))
    settings: dict[str, EnabledSites] = {_FLOAT: frozenset(), _INTEGER: every}
    for name, sites in sources.items():
        settings[f"{name} alone"] = sites
        settings[f"all but {name}"] = every - sites
    scores = score_settings(quantized, scorer, settings, progress=progress)
    items = (
        BudgetItem(name, len(sites), scores[f"{name} alone"], scores[f"all but {name}"])
        for name, sites in sources.items()
    )
    return ErrorBudget(scores[_FLOAT], scores[_INTEGER], tuple(items))


def error_sources(quantized: fx.GraphModule) -> dict[str, EnabledSites]:
    """The quantizers of each source of error, by name; sources without a quantizer are left out."""
    found = quantizers(quantized)
    kinds = {
        "weights": [site for site, each in found.items() if each.kind == "weight"],
        "activations": [site for site, each in found.items() if each.kind == "activation"],
        "network input": [site for site, each in found.items() if each.kind == "input"],
        "head pre-activation": [
            site for site, each in found.items() if each.kind == "activation" and site.startswith("head.")
        ],
        "output codes": [site for site, each in found.items() if each.kind == "output"],
    }
    stages: dict[str, list[str]] = {}
    for site, each in found.items():
        if each.kind in ("weight", "activation"):
            stages.setdefault(_stage(site), []).append(site)
    kinds["substituted activations"] = list(substituted(quantized))  # computed by the tool chain as something else
    sources = kinds | {f"{_STAGE}{name}": sites for name, sites in stages.items()}
    return {name: frozenset(sites) for name, sites in sources.items() if sites}


def _stage(site: str) -> str:
    """Stage of a site: ``encoder.layer1`` for ``encoder.layer1.0.conv1.weight``.

    A decoder block is a stage, and so is the stem of an encoder: all that comes before its stages.
    """
    parts = site.removesuffix(".weight").split(".")
    if parts[0] == "head" or len(parts) == 1:
        return parts[0]
    if parts[1] == "blocks":
        return ".".join(parts[:3])
    if parts[0] == "encoder" and parts[1].startswith(_STEM):
        return "encoder.stem"
    return ".".join(parts[:2])


def _cell(metric: str, values: Mapping[str, float]) -> str:
    return f"{values[metric]:.2f} mm" if metric.endswith("_mm") else f"{values[metric]:.4f}"
