"""What each step of post-training quantization is worth on one network, by us and by ONNX Runtime."""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.backends.vendor_ptq import vendor_network
from depth_distill.export.compare.parity import share_within_one_step
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.loading.trained import LoadedRun
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.adaround import adaround
from depth_distill.quantization.passes.bias_correct import bias_correct
from depth_distill.quantization.passes.equalize import Equalization, channel_ranges, equalize
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.simulate.fake_quantize import quantizers, remove_fake_quant
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import NpuTarget, load_target

T = TypeVar("T")


class Bench:
    """One network as it is measured: images, target, folder for ONNX files."""

    def __init__(self, trained: LoadedRun, options: argparse.Namespace, folder: Path) -> None:
        self.target = load_target(options.target)
        self.folder = folder
        self.calibration = trained.calibration_images(options.calibration_images)
        self.reconstruction = self.calibration[: max(1, options.reconstruction_images // len(self.calibration[0]))]
        self.graph_module = fold(trace(trained.network))
        self.evaluator = trained.evaluator(options.images, reference=self.graph_module)
        self.float_abs_rel = self.evaluator(self.graph_module)["abs_rel"]

    def quantize(self, graph_module: fx.GraphModule, target: NpuTarget | None = None) -> fx.GraphModule:
        """PTQ for the target, or another one."""
        return quantize_post_training(graph_module, target or self.target, self.calibration, progress=False)

    def loss_ratio(self, graph_module: fx.GraphModule) -> float:
        """abs_rel after naive PTQ over that of FP32."""
        return self.evaluator(self.quantize(graph_module))["abs_rel"] / self.float_abs_rel

    def measure(self, graph_module: fx.GraphModule, seconds: float, per_channel: bool = False) -> dict[str, Any]:
        """A row: what PTQ makes of a float network, by us and by the vendor."""
        quantized = self.quantize(graph_module, load_target("per-channel") if per_channel else None)
        ours = self.evaluator(quantized)
        example = self.evaluator.images[0][:1]
        vendor = self.evaluator(vendor_network(graph_module, self.calibration, self.folder, per_channel))["abs_rel"]
        qdq = OnnxNetwork(export_qdq(quantized, example, self.folder / "qdq.onnx"))
        step = next(float(each.scale) for each in quantizers(quantized).values() if each.kind == "output")
        parity = share_within_one_step(quantized, qdq, _first(self.evaluator.images, 20), step)
        values = (ours["abs_rel"], vendor, ours["drift_mm"], parity, seconds)
        return dict(zip(("abs_rel", "vendor", "drift_mm", "parity", "seconds"), values, strict=True))


class Steps:
    """What is measured on one network; each step is computed when it is asked for."""

    def __init__(self, bench: Bench, graph_module: fx.GraphModule) -> None:
        self.bench = bench
        self.graph_module = graph_module

    def measurements(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Rows by the name of their step."""
        steps = {
            "FP32": self._float,
            "naive PTQ": self._naive,
            "+ equalize": self._equalized,
            "(equalize, ReLU6 as ReLU)": self._without_relu6,
            "+ bias correction": self._corrected,
            "+ rounding reconstruction": self._reconstructed,
            "per-channel PTQ": self._per_channel,
        }
        if not self.relaxed.report.replaced:
            del steps["(equalize, ReLU6 as ReLU)"]
        return steps

    @cached_property
    def ranges(self) -> dict[str, Tensor]:
        """Largest magnitudes of channels on the calibration images."""
        return channel_ranges(self.graph_module, self.bench.calibration)

    @cached_property
    def equalized(self) -> fx.GraphModule:
        """The equalized float network."""
        return equalize(self.graph_module, self.ranges).graph_module

    @cached_property
    def relaxed(self) -> Equalization:
        """The same with ReLU6 replaced, which changes the function where it saturated."""
        return equalize(self.graph_module, self.ranges, replace_relu6=True)

    @cached_property
    def quantized(self) -> fx.GraphModule:
        """The equalized network after PTQ."""
        return self.bench.quantize(self.equalized)

    def _float(self) -> dict[str, Any]:
        metrics = self.bench.evaluator(self.graph_module)
        return {"abs_rel": metrics["abs_rel"], "drift_mm": metrics["drift_mm"]}

    def _naive(self) -> dict[str, Any]:
        return self.bench.measure(self.graph_module, 0.0)

    def _equalized(self) -> dict[str, Any]:
        _, seconds = timed(lambda: self.equalized)
        return self.bench.measure(self.equalized, seconds)

    def _without_relu6(self) -> dict[str, Any]:
        relaxed, seconds = timed(lambda: self.relaxed)
        return self.bench.measure(relaxed.graph_module, seconds)

    def _corrected(self) -> dict[str, Any]:
        corrected, seconds = timed(lambda: self._correct(self.quantized))
        return self.bench.measure(corrected, seconds)

    def _reconstructed(self) -> dict[str, Any]:
        rounded, seconds = timed(
            lambda: adaround(self.equalized, self.quantized, self.bench.reconstruction, progress=False)
        )
        # The rounded weights lie on their grid, so this keeps them; only ranges and then biases are new.
        return self.bench.measure(self._correct(self.bench.quantize(remove_fake_quant(rounded))), seconds)

    def _correct(self, quantized: fx.GraphModule) -> fx.GraphModule:
        return remove_fake_quant(bias_correct(self.equalized, quantized, self.bench.reconstruction))

    def _per_channel(self) -> dict[str, Any]:
        return self.bench.measure(self.graph_module, 0.0, per_channel=True)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and the seconds that it took."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _first(batches: Sequence[Tensor], count: int) -> list[Tensor]:
    return list(torch.cat(list(batches))[:count].split(4))
