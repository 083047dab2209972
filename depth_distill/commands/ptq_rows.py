"""The rows of ``ptq-table``: recipes that start alike, each scored after PTQ by us and by ONNX Runtime."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.backends.vendor_ptq import vendor_network
from depth_distill.export.compare.parity import share_within_one_step
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.loading.trained import LoadedRun
from depth_distill.quantization.passes.adaround import AdaRound
from depth_distill.quantization.passes.bias_correct import BiasCorrect
from depth_distill.quantization.passes.equalize import Equalize
from depth_distill.quantization.passes.replace_relu6 import ReplaceReLU6, replace_relu6
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import NpuTarget, load_target

FLOAT, PER_CHANNEL = "FP32", "per-channel PTQ"
_PARITY_IMAGES = 20


class PtqRows:
    """Measures what each recipe gains on one network.

    Args:
        run: the network and its data.
        base: recipe that every row starts with.
        options: of the command.
        folder: folder for ONNX files.
    """

    def __init__(self, run: LoadedRun, base: Recipe, options: argparse.Namespace, folder: Path) -> None:
        self.target = load_target(options.target)
        self.folder = folder
        self.calibration = run.calibration_images(options.calibration_images)
        self.prepare = run.preparer(self.target, self.calibration)
        naive = self.prepare(base)
        self.evaluator = run.evaluator(options.images, reference=naive.reference)
        correct = BiasCorrect(options.reconstruction_images)
        recipes = {
            FLOAT: base,
            "naive PTQ": base,
            "+ equalize": base.then(Equalize()),
            "(equalize, ReLU6 as ReLU)": base.then(ReplaceReLU6(), Equalize()),
            "+ bias correction": base.then(Equalize(), correct),
            "+ rounding reconstruction": base.then(Equalize(), AdaRound(images=options.reconstruction_images), correct),
            PER_CHANNEL: base,
        }
        if not replace_relu6(naive.graph)[1]:
            del recipes["(equalize, ReLU6 as ReLU)"]
        self.recipes: dict[str, Recipe] = recipes
        """Recipe of each row, by its title."""

    def measure(self, row: str) -> dict[str, Any]:
        """What PTQ makes of the float network of a row, by us and by the vendor; of ``FLOAT``, the network itself."""
        prepared = self.prepare(self.recipes[row])
        if row == FLOAT:
            metrics = self.evaluator(prepared.graph)
            return {"abs_rel": metrics["abs_rel"], "drift_mm": metrics["drift_mm"]}
        per_channel = row == PER_CHANNEL
        quantized = self._quantize(prepared.graph, load_target("per-channel")) if per_channel else prepared.quantized
        metrics = self.evaluator(quantized)
        vendor = self.evaluator(vendor_network(prepared.graph, self.calibration, self.folder, per_channel))
        spec = FileSpec.like(self.evaluator.images[0][:1])
        qdq = OnnxNetwork(export_qdq(quantized, self.folder / "qdq.onnx", spec))
        step = next(float(each.scale) for each in quantizers(quantized).values() if each.kind == "output")
        return {
            "abs_rel": metrics["abs_rel"],
            "vendor": vendor["abs_rel"],
            "drift_mm": metrics["drift_mm"],
            "parity": share_within_one_step(quantized, qdq, _first(self.evaluator.images, _PARITY_IMAGES), step),
            "seconds": prepared.seconds,
        }

    def _quantize(self, graph: torch.fx.GraphModule, target: NpuTarget) -> torch.fx.GraphModule:
        return quantize_post_training(graph, target, self.calibration, progress=False)


def _first(batches: Sequence[Tensor], count: int) -> list[Tensor]:
    return list(torch.cat(list(batches))[:count].split(4))
