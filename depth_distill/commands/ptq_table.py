"""Post-training quantization step by step: what each pass gains, plain and stressed, by us and by ONNX Runtime.

    depth-distill ptq-table --checkpoint A.ckpt B.ckpt --out benchmarks/ptq

For each network, as trained and with channel ranges spread until naive PTQ is ``--stress-ratio`` times worse than FP32:
FP32, naive PTQ, equalization, bias correction behind it, rounding reconstruction between the two, and per-channel PTQ
for reference; seconds are those of the pass, without calibration. Each row has abs_rel of this package's fake
quantization and the *vendor number*: ONNX Runtime's own ``quantize_static`` on the float ONNX file of that row. Writes
``ptq_table.json``, ``ptq_table.md`` and ``ptq_table.png``; a row that is in the JSON
already is not measured again. Options that are not listed override the configs.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, fx

from depth_distill.atomic import atomic_path, write_json
from depth_distill.display.pictures import save_figure
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.backends.vendor_ptq import vendor_network
from depth_distill.export.compare.parity import share_within_one_step
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.loading.trained import LoadedRun, load_run
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.adaround import adaround
from depth_distill.quantization.passes.bias_correct import bias_correct
from depth_distill.quantization.passes.equalize import Equalization, channel_ranges, equalize
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.passes.stress import find_sigma, perturb_channel_scales
from depth_distill.quantization.simulate.fake_quantize import quantizers, remove_fake_quant
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import NpuTarget, load_target

T = TypeVar("T")
COLUMNS = ("abs_rel", "x FP32", "vendor", "vendor x FP32", "drift mm", "parity", "s")


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
        qdq = OnnxNetwork(export_qdq(quantized, self.folder / "qdq.onnx", FileSpec.like(example)))
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


def main(args: Sequence[str] | None = None) -> int:
    """Measure what is missing, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help=".ckpt files of runs")
    parser.add_argument("--target", default="per-tensor-minmax", help="name of an NPU profile, or its .yaml file")
    parser.add_argument("--stress-ratio", type=float, default=3.7, help="how bad naive PTQ of the stressed network is")
    parser.add_argument("--images", type=int, help="validate on about this many images; all if not given")
    parser.add_argument("--calibration-images", type=int, default=64)
    parser.add_argument("--reconstruction-images", type=int, default=64, help="for bias correction and rounding")
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON, Markdown and picture")
    options, overrides = parser.parse_known_args(args)
    return exit_code(lambda: _work(options, overrides, Console()))


def _work(options: argparse.Namespace, overrides: Sequence[str], console: Console) -> None:
    file = options.out / "ptq_table.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for checkpoint in options.checkpoint:
        name = checkpoint.absolute().parents[1].name
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(load_run(checkpoint, overrides=overrides), options, Path(folder))
            for variant, ratio in (("plain", None), ("stressed", options.stress_ratio)):
                network = found.setdefault(f"{name}, {variant}", {"sigma": None, "rows": {}})
                if ratio is not None and network["sigma"] is None:
                    network["sigma"] = find_sigma(bench.graph_module, bench.loss_ratio, ratio)
                network["protocol"] = bench.evaluator.protocol
                console.print(f"{name}, {variant}: sigma {network['sigma']}", highlight=False)
                graph_module = bench.graph_module
                if network["sigma"] is not None:
                    graph_module = perturb_channel_scales(graph_module, network["sigma"]).graph_module
                steps = Steps(bench, graph_module).measurements()
                for step, measure in steps.items():
                    if step not in network["rows"]:
                        network["rows"][step] = measure()
                    cells = _cells(network["rows"][step], network["rows"])
                    line = f"  {step:26s}" + "".join(f"{cell:>10s}" for cell in cells)
                    console.print(line, highlight=False, soft_wrap=True)
                    write_json(file, found)
                network["rows"] = {step: network["rows"][step] for step in steps}
                write_json(file, found)
    with atomic_path(options.out / "ptq_table.md") as temporary:
        temporary.write_text(_markdown(found))
    save_figure(_picture(found), options.out / "ptq_table.png")
    console.print(f"written  {file}", soft_wrap=True, highlight=False)


def _cells(row: dict[str, Any], measured: dict[str, dict[str, Any]]) -> list[str]:
    exact = measured["FP32"]["abs_rel"]
    cells = [f"{row['abs_rel']:.4f}", f"{row['abs_rel'] / exact:.3f}"]
    if "vendor" not in row:
        return [*cells, "", "", f"{row['drift_mm']:.2f}", "", ""]
    cells += [f"{row['vendor']:.4f}", f"{row['vendor'] / exact:.3f}", f"{row['drift_mm']:.2f}"]
    return [*cells, f"{row['parity']:.2%}", f"{row['seconds']:.1f}"]


def _markdown(found: dict[str, Any]) -> str:
    lines = []
    for title, network in found.items():
        note = f" (sigma {network['sigma']:.3f})" if network["sigma"] else ""
        lines += [f"### {title}{note}", "", f"| step | {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * len(COLUMNS)]
        measured = network["rows"]
        lines += [f"| {step} | {' | '.join(_cells(row, measured))} |" for step, row in measured.items()]
        lines.append("")
    return "\n".join(lines)


def _picture(found: dict[str, Any]) -> Figure:
    """abs_rel over FP32, by the vendor, one group of bars a network."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    ax = figure.subplots()
    steps = list(dict.fromkeys(step for each in found.values() for step in each["rows"] if step != "FP32"))
    width = 0.85 / len(steps)
    for index, step in enumerate(steps):
        bars = {
            place + (index - (len(steps) - 1) / 2) * width: each["rows"][step]["vendor"]
            / each["rows"]["FP32"]["abs_rel"]
            for place, each in enumerate(found.values())
            if step in each["rows"]
        }
        for place, height in bars.items():
            ax.text(place, height, f" {height:.2f}", rotation=90, ha="center", va="bottom", fontsize=7)
        ax.bar(list(bars), list(bars.values()), width=0.94 * width, label=step)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xticks(range(len(found)), [title.replace(", ", "\n") for title in found], fontsize=8)
    ax.set_ylabel("abs_rel over FP32, ONNX Runtime's own PTQ")
    ax.set_ylim(0.5, 1.35 * ax.get_ylim()[1])
    ax.legend(fontsize=8, ncols=3, loc="upper center")
    return figure


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and the seconds that it took."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _first(batches: Sequence[Tensor], count: int) -> list[Tensor]:
    return list(torch.cat(list(batches))[:count].split(4))


if __name__ == "__main__":
    sys.exit(main())
