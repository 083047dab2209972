"""Measure a row of a roadmap: recipes, students and mixed precision, after the tool chain's own quantization."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx

from depth_distill.codecs import HostCodec
from depth_distill.codecs.table_fit import fit_table
from depth_distill.evaluation import Evaluator, InterfaceScorer
from depth_distill.export.backends.vendor_ptq import inexpressible, vendor_network
from depth_distill.export.bundle.decode_table import expected_codes
from depth_distill.loading.trained import LoadedRun, load_run
from depth_distill.quantization.analysis.mixed_precision import megabytes, mixed_network, search_mixed_precision
from depth_distill.quantization.analysis.sensitivity import sensitivity
from depth_distill.quantization.preparation import Prepared
from depth_distill.quantization.recipe import NAIVE, Recipe
from depth_distill.quantization.simulate.fake_quantize import fake_quantize
from depth_distill.quantization.simulate.npu_operators import npu_operators
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.substitutions import UNCONFIRMED
from depth_distill.quantization.target.target import NpuTarget, load_target
from depth_distill.roadmap.plan import Plan
from depth_distill.roadmap.report import IN_FLOAT, MEASURED, SUBSTITUTED

_FLOAT_BYTES = 4
_SEARCH_BATCHES = 2  # minimum for the search of mixed precision, evenly spaced in the validation split


class Measurements:
    """Measures rows, with the images and the float network of the teacher.

    What ONNX Runtime's quantizer cannot express of a target is measured by fake quantization, and the protocol says so.

    Args:
        teacher: checkpoint of the teacher.
        plan: plan with the target, and the numbers of images.
        data_options: command-line options that override those of the data.

    Raises:
        ConfigError: a checkpoint, config or profile cannot be used.
    """

    def __init__(self, teacher: Path, plan: Plan, data_options: Sequence[str]) -> None:
        run = load_run(teacher, overrides=data_options)
        self.target = load_target(plan.target)
        self.substituting = None if plan.substituting is None else _both(self.target, load_target(plan.substituting))
        self.calibration = run.calibration_images(plan.calibration_images)
        self.prepare = run.preparer(self.target, self.calibration)
        self.naive = self.prepare(NAIVE)
        self.evaluator: Evaluator = run.evaluator(plan.images, reference=self.naive.reference)
        self.float_abs_rel = self.evaluator(self.naive.graph)["abs_rel"]

    @property
    def protocol(self) -> str:
        """How numbers are made, in words."""
        reason = inexpressible(self.target)
        how = f"; by fake quantization, because ONNX Runtime cannot stand for {self.target.name}: {reason}"
        return self.evaluator.protocol + (how if reason is not None else "")

    def loss_ratio(self, graph: fx.GraphModule) -> float:
        """abs_rel after PTQ over that of FP32."""
        quantized = quantize_post_training(graph, self.target, self.calibration, progress=False)
        return self.evaluator(quantized)["abs_rel"] / self.float_abs_rel

    def float_row(self, recipe: Recipe) -> dict[str, float]:
        """Row of the float network."""
        graph = self.prepare(recipe).graph
        count = sum(parameter.numel() for parameter in graph.parameters())
        return _row(self.evaluator(graph), count * _FLOAT_BYTES / 1e6, 0.0) | {"float": 1.0}

    def ptq_row(self, recipe: Recipe, decode_table: bool) -> dict[str, float]:
        """Row of the teacher after a recipe and the tool chain's PTQ."""
        prepared = self.prepare(recipe)
        return self._vendor_row(prepared, prepared.seconds, decode_table)

    def student_row(self, student: LoadedRun, recipe: Recipe, seconds: float) -> dict[str, float]:
        """Row of a trained student after the tool chain's PTQ, and in float; drift is relative to the teacher."""
        prepared = student.preparer(self.target, self.calibration)(recipe)
        metrics = InterfaceScorer(self.evaluator, prepared.interface)(prepared.reference)
        return self._vendor_row(prepared, seconds) | {IN_FLOAT: metrics["abs_rel"]}

    def mixed_row(self, recipe: Recipe, reach: float, unfinished: Path) -> dict[str, float]:
        """Row of the smallest mixed network within ``reach`` times FP32, by fake quantization.

        The search takes some hundred evaluations, so it uses a few images; the result is measured on all.
        """
        started = time.perf_counter()
        prepared = self.prepare(recipe)
        quantized, scorer = prepared.quantized, InterfaceScorer(self.evaluator, prepared.interface)
        batches = scorer.evaluator.batches
        fewer = Evaluator(batches[:: max(1, len(batches) // _SEARCH_BATCHES)], scorer.evaluator.codec)
        few = InterfaceScorer(fewer, prepared.interface)
        found = search_mixed_precision(
            quantized,
            few,
            sensitivity(quantized, few, resume=unfinished),
            prepared.batches,
            reach * few(prepared.graph)["abs_rel"],
            calibrator=self.target.calibrator,
        )
        layers, calibrator = found.chosen.layers, self.target.calibrator
        metrics = scorer(mixed_network(quantized, layers, prepared.batches, calibrator=calibrator))
        row = _row(metrics, found.chosen.megabytes, time.perf_counter() - started)
        return row | {"high_precision_layers": float(len(layers))}

    def _vendor_row(self, prepared: Prepared, seconds: float, decode_table: bool = False) -> dict[str, float]:
        metrics = self._after_vendor(prepared, self.target.substitutions, decode_table)
        size_mb = megabytes(npu_operators(fake_quantize(prepared.graph, self.target)), [])
        row = _row(metrics, size_mb, seconds)
        if self.substituting is not None:
            other = self._after_vendor(prepared, self.substituting, decode_table)
            row |= {SUBSTITUTED: other["abs_rel"], "substituted_drift_mm": other["drift_mm"]}
        return row

    def _after_vendor(
        self, prepared: Prepared, substitutions: Mapping[str, str], decode_table: bool
    ) -> dict[str, float]:
        """Metrics after the PTQ of a tool chain that makes some substitutions."""
        interface = prepared.interface
        with tempfile.TemporaryDirectory() as folder:
            network = self._quantized(prepared, substitutions, Path(folder))
            if decode_table:
                interface = replace(interface, codec=self._behind_table(prepared, network))
            return InterfaceScorer(self.evaluator, interface)(network)

    def _quantized(self, prepared: Prepared, substitutions: Mapping[str, str], folder: Path) -> Callable[..., Any]:
        """The network as the tool chain makes it, or as fake quantization does where none here can stand for it."""
        if inexpressible(self.target) is not None:
            return prepared.quantized
        return vendor_network(
            prepared.graph,
            prepared.batches,
            folder,
            output_names=prepared.interface.outputs.names,
            substitutions=substitutions,
            target=self.target,
        )

    def _behind_table(self, prepared: Prepared, network: Callable[..., Any]) -> HostCodec:
        """The codec behind a table from what the tool chain's network says on the calibration images, if that helps."""
        codes = prepared.interface.outputs.codes
        with torch.inference_mode():
            device = torch.cat([codes(network(batch)).cpu() for batch in prepared.batches]).numpy()
        expected = expected_codes(prepared, self.evaluator.codec.host)
        fit = fit_table(prepared.interface.codec, device, expected)
        return fit.codec if fit.helps else prepared.interface.codec


def _both(target: NpuTarget, other: NpuTarget) -> dict[str, str]:
    """What is computed in place of operators where the other profile has a word, and elsewhere the target."""
    told = {operator: by for operator, by in other.substitutions.items() if by != UNCONFIRMED}
    return {**target.substitutions, **told}


def _row(metrics: Mapping[str, float], size_mb: float, seconds: float) -> dict[str, float]:
    kept = {name: metrics[name] for name in MEASURED if name in metrics}
    return {**kept, "megabytes": size_mb, "seconds": seconds}
