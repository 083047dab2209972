"""The rows of ``ptq-table``: recipes that start alike, each scored after PTQ by us and by ONNX Runtime."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depth_distill.commands.analysis import show_head
from depth_distill.commands.ptq_report import FLOAT, PER_CHANNEL
from depth_distill.evaluation import InterfaceScorer
from depth_distill.export.backends.runtime import OnnxFile
from depth_distill.export.backends.vendor_ptq import inexpressible, vendor_network
from depth_distill.export.compare.parity import share_within_one_step
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.qdq import export_qdq, require_writable
from depth_distill.loading.trained import LoadedRun
from depth_distill.quantization.interface import OutputLayout
from depth_distill.quantization.passes.adaround import AdaRound
from depth_distill.quantization.passes.base import Pass
from depth_distill.quantization.passes.bias_correct import BiasCorrect
from depth_distill.quantization.passes.equalize import Equalize
from depth_distill.quantization.passes.replace_relu6 import ReplaceReLU6, replace_relu6
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.simulate.fake_quantize import quantizers, without_substitutions
from depth_distill.quantization.target.target import NpuTarget, load_target

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
        require_writable(self.target)  # parity is that of an INT8 file
        self.folder = folder
        calibration = run.calibration_images(options.calibration_images)
        self.prepare = run.preparer(self.target, calibration)
        base = run.chosen_recipe(base, self.target, calibration, on_head=show_head)
        naive = self.prepare(base)
        self.evaluator = run.evaluator(options.images, reference=naive.reference)
        has_relu6 = bool(replace_relu6(naive.graph)[1])
        self.recipes = row_recipes(base, options.reconstruction_images, has_relu6)
        """Recipe of each row, by its title."""

    def measure(self, row: str) -> dict[str, Any]:
        """What PTQ makes of the float network of a row, by us and by the vendor; of ``FLOAT``, the network itself."""
        prepared = self.prepare(self.recipes[row])
        scorer = InterfaceScorer(self.evaluator, prepared.interface)
        if row == FLOAT:
            metrics = scorer(prepared.graph)
            return {"abs_rel": metrics["abs_rel"], "drift_mm": metrics["drift_mm"]}
        target = _per_channel(self.target) if row == PER_CHANNEL else self.target
        quantized = dataclasses.replace(prepared.context, target=target).quantize(prepared.graph)
        metrics = scorer(quantized)
        outputs, vendor = prepared.interface.outputs, None
        if inexpressible(target) is None:
            network = vendor_network(
                prepared.graph,
                prepared.batches,
                self.folder,
                output_names=outputs.names,
                substitutions=target.substitutions,
                target=target,
            )
            vendor = scorer(network)["abs_rel"]
        spec = dataclasses.replace(FileSpec.of(prepared.interface), uint8_input=False)  # graphs take pixels as floats
        qdq = OnnxFile(export_qdq(quantized, self.folder / "qdq.onnx", spec))
        step = max(float(each.scale) for each in quantizers(quantized).values() if each.kind == "output")
        ours, in_file = (partial(_together, outputs, each) for each in (without_substitutions(quantized), qdq))
        return {
            "abs_rel": metrics["abs_rel"],
            "vendor": vendor,  # None where its quantizer cannot stand for the target
            "drift_mm": metrics["drift_mm"],
            "parity": share_within_one_step(ours, in_file, _first(scorer.images, _PARITY_IMAGES), step),
            "seconds": prepared.seconds,
        }


def row_recipes(base: Recipe, images: int, has_relu6: bool) -> dict[str, Recipe]:
    """The recipe of each row, by its title.

    Args:
        base: what every recipe begins with.
        images: number of images that rounding is fitted to.
        has_relu6: whether the network has ReLU6.
    """
    equalize, correct, rounding = Equalize(), BiasCorrect(images), AdaRound(images=images)
    steps: dict[str, tuple[Pass, ...]] = {
        "+ equalize": (equalize,),
        "(equalize, ReLU6 as ReLU)": (ReplaceReLU6(), equalize),
        "+ bias correction": (equalize, correct),
        "+ rounding reconstruction": (equalize, rounding, correct),
    }
    if not has_relu6 or base.keeps_scales:
        del steps["(equalize, ReLU6 as ReLU)"]
    recipes = {FLOAT: base, "PTQ" if base.has("equalize") else "naive PTQ": base}
    if not any(base.has(each.name) for each in (rounding, correct)):  # nothing may come behind rounding
        for row, passes in steps.items():
            more = [each for each in passes if not (base.keeps_scales and isinstance(each, Equalize))]
            if more:
                recipes[row] = base.then(*more)
    recipes[PER_CHANNEL] = base
    return recipes


def _together(outputs: OutputLayout, network: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """All outputs of a network, as they are, one behind the other."""
    return torch.cat(list(outputs.tensors(network(images)).values()), dim=1)


def _per_channel(target: NpuTarget) -> NpuTarget:
    return dataclasses.replace(load_target("per-channel"), substitutions=target.substitutions)


def _first(batches: Sequence[Tensor], count: int) -> list[Tensor]:
    return list(torch.cat(list(batches))[:count].split(4))
