"""Which layers lose accuracy in integers: each layer alone, and all others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import fx

from depth_distill.errors import ConfigError
from depth_distill.quantization.analysis.axis import ABS_REL, DRIFT, Axis, cost_of_int8, telling_axis
from depth_distill.quantization.analysis.replay import Replay
from depth_distill.quantization.analysis.scoring import Scorer
from depth_distill.quantization.analysis.switching import score_settings
from depth_distill.quantization.graph.substituted import substituted
from depth_distill.quantization.simulate.fake_quantize import EnabledSites
from depth_distill.quantization.simulate.npu_operators import NpuOperator, enabled_sites_for, npu_operators

_FLOAT, _INTEGER = "float", "integer"
_SUBSTITUTED = "float, with substituted activations"


@dataclass(frozen=True)
class LayerSensitivity:
    """Sensitivity of one layer.

    Attributes:
        name: name of the module.
        weights: number of weights.
        alone: metrics with only this layer in integers.
        leave_one_out: metrics with only this layer in floating point.
        degradation: the metric of ``alone`` minus that of the float network (as the target computes it, where it
            substitutes activations): the cost of this layer in integers. The metric is :attr:`Sensitivity.metric`.
        recovery: the metric of the integer network minus that of ``leave_one_out``: the gain of this layer in floating
            point.
    """

    name: str
    weights: int
    alone: Mapping[str, float]
    leave_one_out: Mapping[str, float]
    degradation: float
    recovery: float


@dataclass(frozen=True)
class Sensitivity:
    """All layers by ``degradation``, the most sensitive first, and the metrics of the float and the integer network.

    ``substituted_metrics`` are those of the float network with the activations that the target substitutes; None where
    it substitutes none.
    """

    float_metrics: Mapping[str, float]
    integer_metrics: Mapping[str, float]
    layers: tuple[LayerSensitivity, ...]
    metric: str = ABS_REL
    substituted_metrics: Mapping[str, float] | None = None

    @property
    def baseline(self) -> Mapping[str, float]:
        """The metrics with no layer in integers, as the target computes activations: what a layer alone adds to."""
        return self.float_metrics if self.substituted_metrics is None else self.substituted_metrics

    @property
    def axis(self) -> Axis:
        """What layers are ranked by."""
        return Axis(self.metric)

    @property
    def verdict(self) -> str:
        """What INT8 costs, and which layer costs most, in a sentence."""
        axis, first = self.axis, self.layers[0]
        return (
            f"{cost_of_int8(self.float_metrics, self.integer_metrics)}; of all layers {first.name} costs most alone, "
            f"{axis.text(first.degradation)}; with it in float "
            f"{axis.text(self.integer_metrics[axis.metric])} become {axis.text(first.leave_one_out[axis.metric])}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"verdict": self.verdict}

    def table(self, title: str, bands: Sequence[str] = ()) -> Table:
        """One row per layer; ``bands`` are suffixes of metric names, such as ``0.5-2m``."""
        axis = self.axis
        table = Table(title=title, caption=self.verdict)
        table.add_column("layer")
        columns = [Axis("abs_rel"), *(Axis(f"abs_rel_{band}") for band in bands)]
        columns += [Axis(DRIFT)] if DRIFT in self.float_metrics else []
        for heading in ["weights", *(each.metric for each in columns), "degradation", "all but it", "recovery"]:
            table.add_column(heading, justify="right")
        rows: list[tuple[str, str, Mapping[str, float], str, str, str]] = [
            ("none (float)", "", self.float_metrics, "", "", ""),
            *(
                (each.name, f"{each.weights:,}", each.alone, axis.text(each.degradation, sign=True))
                + (axis.text(each.leave_one_out[axis.metric]), axis.text(each.recovery, sign=True))
                for each in self.layers
            ),
            ("all (integer)", "", self.integer_metrics, "", "", ""),
        ]
        for name, weights, metrics, *rest in rows:
            table.add_row(name, weights, *(each.text(metrics[each.metric]) for each in columns), *rest)
        return table


def sensitivity(
    quantized: fx.GraphModule, scorer: Scorer, resume: Path | None = None, progress: bool = True
) -> Sensitivity:
    """Score the network with each layer alone in integers, and with all others in integers.

    The weight, inputs and output of a layer in integers are rounded, see
    :func:`~depth_distill.quantization.simulate.npu_operators.enabled_sites_for`; the rest is float32. Activations that
    the target substitutes are so in every precision, and with every layer alone; the float network has none.

    Args:
        quantized: network from ``fake_quantize``, with ranges; it is not changed.
        scorer: images and metrics.
        resume: folder for unfinished work, see :func:`~depth_distill.quantization.analysis.switching.score_settings`.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: the network has no quantized layers, or a quantizer has no range.
    """
    operators = npu_operators(quantized)
    settings = sensitivity_settings(operators, frozenset(substituted(quantized)))
    scores = score_settings(quantized, scorer, settings, resume, progress)
    exact = scores.get(_SUBSTITUTED, scores[_FLOAT])
    metric = telling_axis(exact, scores[_INTEGER]).metric
    layers = []
    for each in (each for each in operators if each.is_layer):
        alone, leave_one_out = scores[f"{each.name} alone"], scores[f"all but {each.name}"]
        degradation = alone[metric] - exact[metric]
        recovery = scores[_INTEGER][metric] - leave_one_out[metric]
        layers.append(LayerSensitivity(each.name, each.parameters[0], alone, leave_one_out, degradation, recovery))
    layers.sort(key=lambda each: -each.degradation)
    return Sensitivity(scores[_FLOAT], scores[_INTEGER], tuple(layers), metric, scores.get(_SUBSTITUTED))


def sensitivity_settings(
    operators: Sequence[NpuOperator], substitutions: EnabledSites = frozenset()
) -> dict[str, EnabledSites]:
    """The sites that are on in each run of :func:`sensitivity`, by name of the run.

    Args:
        operators: operators of the network.
        substitutions: sites of its substituted activations.

    Raises:
        ConfigError: there is no quantized layer.
    """
    layers = [each.name for each in operators if each.is_layer]
    if not layers:
        raise ConfigError("the network has no quantized layers: fake_quantize it before measuring sensitivity")
    settings = {_INTEGER: enabled_sites_for(operators, [])}
    for name in layers:
        settings[f"{name} alone"] = enabled_sites_for(operators, [other for other in layers if other != name])
        settings[f"all but {name}"] = enabled_sites_for(operators, [name])
    settings = {name: sites | substitutions for name, sites in settings.items()}
    settings[_FLOAT] = enabled_sites_for(operators, layers)
    return {**settings, _SUBSTITUTED: settings[_FLOAT] | substitutions} if substitutions else settings


@dataclass(frozen=True)
class FastSensitivity:
    """A ranking of layers from one pass, and its agreement with the exact ranking on the first batch.

    Attributes:
        sqnr_db: SQNR in dB by layer, the lowest first: power of the float output over that of the error from rounding
            the layer's weight, inputs and output.
        agreement: Spearman's rank correlation with ``degradation``.
        top: number of the five most sensitive layers that are also among the five first here.
        images: number of images in the first batch.
    """

    sqnr_db: Mapping[str, float]
    agreement: float
    top: int
    images: int


def fast_sensitivity(quantized: fx.GraphModule, scorer: Scorer, progress: bool = True) -> FastSensitivity:
    """Rank layers by the SQNR of their outputs; nothing behind a layer is computed.

    SQNR does not tell how the rest of the network responds to the noise, so the ranking is compared with the exact one
    on the first batch.

    Raises:
        ConfigError: see :func:`sensitivity`.
    """
    operators = npu_operators(quantized)
    substitutions = frozenset(substituted(quantized))
    settings = sensitivity_settings(operators, substitutions)
    written = {each.name: each.writes for each in operators if each.is_layer and each.writes is not None}
    layers = list(written)
    first = _FirstBatch(scorer)
    exact = sensitivity(quantized, first, progress=progress)
    noise, signal = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0.0)
    replay = Replay(quantized)
    for images in scorer.images:
        replay.switch_on(substitutions)
        replay.record(images)
        for name, site in written.items():
            replay.switch_on(settings[f"{name} alone"])
            before, after = replay.recorded(site), replay.again(upto=site)
            noise[name] += float((after - before).square().sum())
            signal[name] += float((before - before.mean()).square().sum())
    sqnr = {name: 10 * math.log10(signal[name] / max(noise[name], 1e-30)) for name in layers}
    ranked = sorted(layers, key=lambda name: sqnr[name])
    order = [each.name for each in exact.layers]
    return FastSensitivity(
        {name: sqnr[name] for name in ranked},
        _spearman([ranked.index(name) for name in layers], [order.index(name) for name in layers]),
        len(set(ranked[:5]) & set(order[:5])),
        len(first.images[0]),
    )


class _FirstBatch:
    def __init__(self, scorer: Scorer) -> None:
        self.images = scorer.images[:1]
        self.names = scorer.names
        self.measure = scorer.measure
        self.summarize = scorer.summarize


def _spearman(one: Sequence[int], other: Sequence[int]) -> float:
    ranks = torch.tensor([one, other], dtype=torch.float64)
    return float(torch.corrcoef(ranks)[0, 1]) if len(one) > 1 else 1.0
