"""From a checkpoint to the graphs that are written down: float, and fake-quantized with the ranges of the target."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, fx

from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError, DataError
from depth_distill.export.bundle.steps import Steps
from depth_distill.export.interface.clips import bake_ranges
from depth_distill.export.interface.inputs import InputLayout, fold_normalization
from depth_distill.export.interface.outputs import OutputLayout, drop_sigmoid, output_layout, separate_outputs
from depth_distill.loading.trained import LoadedRun
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.equalize import channel_ranges, equalize
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.passes.stress import perturb_channel_scales
from depth_distill.quantization.simulate.calibrate import Calibration, apply_calibration, calibrate, weights_hash
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers
from depth_distill.quantization.target.target import CalibratorName, NpuTarget

_WEIGHTS = "network.pt"
_BATCH = 16


@dataclass(frozen=True)
class Preparation:
    """How a trained network is made ready for the target.

    Attributes:
        equalize: rescale channels graph-wide; the function stays the same.
        stress: spread channel ranges by this sigma first; the function stays the same. For trials.
        calibration_images: how many of the training split, where the config names no others.
        calibrator: how ranges are measured; the target's own unless given.
        uint8_input: the files take pixels, and their first convolution normalizes them.
        logits: the files end before the sigmoid.
        separate: one output a code; where the codec has a whole part, unless False.
        bake_ranges: learned activation ranges become clips.
    """

    equalize: bool = True
    stress: float | None = None
    calibration_images: int = 64
    calibrator: CalibratorName | None = None
    uint8_input: bool = False
    logits: bool = False
    separate: bool | None = None
    bake_ranges: bool = False


@dataclass(frozen=True)
class Prepared:
    """Graphs that take what the files take, pixels as floats where it is pixels.

    Attributes:
        reference: the trained network, folded and otherwise untouched: codes of normalized images.
        graph: float.
        quantized: for the target, with ranges.
        inputs: what the files take.
        outputs: what leaves them.
        calibration: normalized calibration images ``(N, 3, H, W)``.
        calibrator: how ranges were measured on them.
        gain: largest and mean range ratio of the layers before and after equalization; None without it.
    """

    reference: fx.GraphModule
    graph: fx.GraphModule
    quantized: fx.GraphModule
    inputs: InputLayout
    outputs: OutputLayout
    calibration: Tensor
    calibrator: CalibratorName
    gain: dict[str, float] | None

    @property
    def example(self) -> Tensor:
        """An input of the graphs, of batch 1."""
        return self.feed(self.calibration[:1])

    @property
    def fingerprint(self) -> list[Any]:
        """What the float files depend on."""
        return [weights_hash(self.graph), self.inputs.to_dict(), str(self.outputs)]

    @property
    def ranges(self) -> dict[str, Any]:
        """What the integer files depend on besides: scale and zero point by site."""
        every = quantizers(self.quantized).items()
        return {site: [each.tolist() for each in quantizer.constants()] for site, quantizer in every}

    @property
    def batches(self) -> list[Tensor]:
        """What the graphs are calibrated on."""
        return [self.feed(images) for images in self.calibration.split(_BATCH)]

    def feed(self, images: Tensor) -> Tensor:
        """What the graphs take, of normalized images."""
        return self.inputs.prepare(images).float()


def prepare(run: LoadedRun, target: NpuTarget, how: Preparation, steps: Steps, console: Console) -> Prepared:
    """Fold, stress, equalize, lay out inputs and outputs, and calibrate.

    Raises:
        StepError: naming the step.
    """
    data = run.data
    inputs = InputLayout(*data.image_size, data.normalize.mean, data.normalize.std, how.uint8_input)
    outputs = output_layout(run.network.codec.host, how.separate, how.logits)
    folded = steps.run("fold", None, lambda: fold(trace(run.network)), value=False)
    images = steps.run("read calibration images", None, lambda: _calibration(run, how), value=False)
    graph = folded if how.stress is None else perturb_channel_scales(folded, how.stress).graph_module
    gain = None
    if how.equalize:
        found = steps.run(
            "equalize",
            [weights_hash(graph), tensor_hash(images), how.bake_ranges],
            lambda: _equalize(graph, images, how, steps.folder, console),
            [_WEIGHTS],
        )
        graph = fold(trace(run.network))
        graph.load_state_dict(torch.load(steps.folder / _WEIGHTS, weights_only=True))
        gain = dict(found)
    graph = steps.run(
        "lay out inputs and outputs", None, lambda: _lay_out(graph, run, target, how, inputs, outputs), value=False
    )
    quantized = fake_quantize(graph, target)
    calibrator = how.calibrator or target.calibrator
    prepared = Prepared(folded.eval(), graph.eval(), quantized.eval(), inputs, outputs, images, calibrator, gain)
    measured = steps.run(
        "calibrate",
        [weights_hash(quantized), tensor_hash(images), calibrator, inputs.to_dict()],
        lambda: calibrate(quantized, prepared.batches, calibrator).ranges,
    )
    ranges = {site: (float(low), float(high)) for site, (low, high) in measured.items()}
    if how.uint8_input:
        (image,) = (site for site, each in quantizers(quantized).items() if each.kind == "input")
        ranges[image] = (0.0, 255.0)  # pixels as they are, whether or not a calibration image has white
    apply_calibration(Calibration(calibrator, len(images), weights_hash(quantized), ranges), quantized)
    return prepared


def tensor_hash(values: Tensor) -> str:
    """SHA-256 of the bytes of a tensor on the CPU."""
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def _calibration(run: LoadedRun, how: Preparation) -> Tensor:
    batches = run.calibration_images(how.calibration_images)
    if not batches:
        raise DataError("the calibration set is empty: expected at least one image")
    images = torch.cat(batches)
    wrong = [index for index, each in enumerate(images) if not bool(each.isfinite().all())]
    if wrong:
        raise DataError(
            f"calibration image {wrong[0]} has NaN or infinity ({len(wrong)} of {len(images)} have): "
            "mend or leave out these files, and check data.image_mean and data.image_std"
        )
    return images


def _equalize(
    graph: fx.GraphModule, images: Tensor, how: Preparation, folder: Path, console: Console
) -> dict[str, float]:
    if how.bake_ranges:
        raise ConfigError("--bake-ranges keeps ranges that were learned for these channel scales: add --no-equalize")
    report = equalize(graph, channel_ranges(graph, images.split(_BATCH)))
    console.print(report.report.table())
    with atomic_path(folder / _WEIGHTS) as temporary:
        torch.save(report.graph_module.state_dict(), temporary)
    before = [max(each.outputs_before, each.inputs_before) for each in report.report.layers]
    after = [max(each.outputs_after, each.inputs_after) for each in report.report.layers]
    return {
        "worst_before": max(before),
        "worst_after": max(after),
        "mean_before": sum(before) / len(before),
        "mean_after": sum(after) / len(after),
    }


def _lay_out(
    graph: fx.GraphModule,
    run: LoadedRun,
    target: NpuTarget,
    how: Preparation,
    inputs: InputLayout,
    outputs: OutputLayout,
) -> fx.GraphModule:
    if how.bake_ranges:
        if not run.ranges:
            raise ConfigError("--bake-ranges: this checkpoint has no activation ranges: train it with FakeQuant")
        graph = bake_ranges(graph, target, run.ranges)
    if how.logits:
        graph = drop_sigmoid(graph)
    if len(outputs.names) > 1:
        graph = separate_outputs(graph, outputs)
    if how.uint8_input:
        if target.activations.symmetric:
            raise ConfigError(f"--uint8-input: {target.name} has symmetric activations, which lose a bit of each pixel")
        graph = fold_normalization(graph, inputs.mean, inputs.std)
    return graph
