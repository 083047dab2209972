"""The layers of a prepared network that stay in FP16: named ones, or the fewest that reach an accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from depth_distill.evaluation import Evaluator, InterfaceScorer
from depth_distill.quantization.analysis.mixed_precision import (
    RELATIVE_TARGET,
    check_high_precision_format,
    chosen_layers,
    search_mixed_precision,
)
from depth_distill.quantization.analysis.sensitivity import sensitivity
from depth_distill.quantization.preparation import Prepared
from depth_distill.quantization.target.target import NpuTarget


@dataclass(frozen=True)
class HighPrecisionLayers:
    """Layers in FP16, and the reason for this choice."""

    layers: tuple[str, ...]
    reason: str


def choose_high_precision_layers(
    prepared: Prepared,
    target: NpuTarget,
    evaluator: Callable[[], Evaluator],
    named: Path | Sequence[str] | None,
    target_abs_rel: float | None,
    resume: Path,
) -> HighPrecisionLayers:
    """The layers of ``model.mixed.onnx`` in FP16.

    Args:
        prepared: the network that a recipe prepared.
        target: NPU that the network is exported for.
        evaluator: returns labelled images for a search; called only if there is one.
        named: names of the layers, or a file from ``depth-distill mixed-precision``; there is no search then.
        target_abs_rel: abs_rel for the search to reach; 1.02 times that of the float network unless given.
        resume: folder for unfinished work of the search.

    Raises:
        ConfigError: layers are named for a target that does not support FP16, or a name is no layer.
    """
    if named is not None:
        check_high_precision_format(target, "fp16")
        layers = chosen_layers(named) if isinstance(named, Path) else tuple(named)
        return HighPrecisionLayers(layers, f"{len(layers)} named")
    can = target.capabilities
    if "no" in (can.fp16, can.per_layer_precision):
        return HighPrecisionLayers((), f"{target.name} does not mix FP16 and INT8")
    scorer = InterfaceScorer(evaluator(), prepared.interface)
    float_abs_rel = scorer(prepared.graph)["abs_rel"]
    integer_abs_rel = scorer(prepared.quantized)["abs_rel"]
    wanted = RELATIVE_TARGET * float_abs_rel if target_abs_rel is None else target_abs_rel
    if integer_abs_rel <= wanted:
        return HighPrecisionLayers(
            (), f"pure INT8 reaches abs_rel {integer_abs_rel:.4f}, wanted {wanted:.4f}: no layer needs FP16"
        )
    ranking = sensitivity(prepared.quantized, scorer, resume=resume)
    found = search_mixed_precision(
        prepared.quantized, scorer, ranking, prepared.batches, wanted, calibrator=prepared.context.chosen_calibrator
    )
    return HighPrecisionLayers(found.chosen.layers, found.statement)
