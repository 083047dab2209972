"""Clip activations where a few large values would make one scale too coarse for all others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.table import Table
from torch import fx

from depth_distill.errors import ConfigError
from depth_distill.quantization.passes.bake_ranges import bake_ranges
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.simulate.calibrate import activation_quantizers, calibrate
from depth_distill.quantization.simulate.fake_quantize import fake_quantize

_Range = tuple[float, float]


@dataclass(frozen=True)
class ClipRanges(Pass):
    """Put a clip where min/max calibration is hurt by outliers.

    A tool chain with min/max calibration gives the whole range to whatever was the largest value on any image. Here
    each activation is measured once more with ``calibrator``, and clipped to that range where it is narrower by
    ``min_gain``: min/max calibration of the clipped network then finds the narrower range (the trade of clipping
    against rounding: Sung et al. 2015; Migacz 2017). Clips are placed as by
    :func:`~depth_distill.quantization.passes.bake_ranges.bake_ranges`. Values beyond the range change, so the float
    network does; whether that gains is for ``auto`` or a table to judge, on other images.

    Args:
        calibrator: ``mse``: the range with the least squared error; ``percentile``: without the outermost values.
        min_gain: an activation is clipped if its range becomes narrower by this factor.
    """

    name: ClassVar[str] = "clip_ranges"
    changes_function: ClassVar[bool] = True
    for_int8: ClassVar[bool] = True

    calibrator: Literal["mse", "percentile"] = "mse"
    min_gain: float = 1.2

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a gain that is a loss, and a network that is prepared without images."""
        if self.min_gain < 1:
            raise ConfigError(f"min_gain: received {self.min_gain:g}, expected 1 or more")
        if not context.images:
            raise ConfigError("clip_ranges needs calibration images: it belongs to the export, not to training")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Measure both ranges of every activation, choose, and clip."""
        quantized = fake_quantize(graph, context.target)
        symmetric = context.target.activations.symmetric
        wide, narrow = (
            {site: _representable(each, symmetric) for site, each in measured.ranges.items()}
            for measured in (
                calibrate(quantized, context.batches, name, progress=context.progress)
                for name in (context.chosen_calibrator, self.calibrator)
            )
        )
        inner = {name for name, each in activation_quantizers(quantized).items() if each.kind == "activation"}
        clipped = {name: narrow[name] for name in narrow if name in inner and self._gains(wide[name], narrow[name])}
        changed = bake_ranges(graph, context.target, clipped)
        values = {"clipped": {name: list(each) for name, each in clipped.items()}}
        summary = f"{len(clipped)} of {len(inner)} activations clipped"
        return PassResult(changed, PassReport(summary, values, _table(wide, clipped)))

    def _gains(self, wide: _Range, narrow: _Range) -> bool:
        width, narrower = (max(high, 0.0) - min(low, 0.0) for low, high in (wide, narrow))
        return 0 < narrower * self.min_gain <= width


def _representable(given: _Range, symmetric: bool) -> _Range:
    """The range that codes for ``given`` span: a symmetric scale is that of the larger end, and cuts off neither."""
    largest = max(-given[0], given[1])
    return (-largest, largest) if symmetric else given


def _table(wide: Mapping[str, _Range], clipped: Mapping[str, _Range]) -> Table:
    table = Table("activation", "range", "clipped to", title="Clipped activations")
    for name, each in clipped.items():
        table.add_row(name, *(f"{low:.3g} to {high:.3g}" for low, high in (wide[name], each)))
    return table
