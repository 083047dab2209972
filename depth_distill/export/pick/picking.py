"""Which of many images to calibrate on: statistics of each, a greedy choice, and real quantization to check it."""

import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor, fx

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.network_inputs import DatasetInputs, NetworkInputs, PixelFormat, divide, spaced
from depth_distill.display.progress import counting
from depth_distill.errors import ConfigError, DataError, UserError
from depth_distill.export.bundle.bundle import bundle_of
from depth_distill.export.harden.sources import CONFIGS, Source, open_source, resize_of, resize_option
from depth_distill.export.pick.outcome import Choice, PickOptions, SizeRow, Stretching, recommend
from depth_distill.loading.trained import load_data
from depth_distill.models import DepthCodec
from depth_distill.quantization.analysis.choose_images import RangeCost, choose_greedily, stretch_of, typical
from depth_distill.quantization.analysis.image_ranges import ImageRanges, measure_images, noise_gains
from depth_distill.quantization.interface import Interface, RawOutputs
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import NAIVE
from depth_distill.quantization.simulate.fake_quantize import fake_quantize
from depth_distill.quantization.simulate.ptq import with_ranges
from depth_distill.quantization.target.target import NpuTarget

FEW_IMAGES = 32
LEFT_OUT = 0.1
"""Share of the images that do not count, the worst, where faulty ones may be among them."""
STRETCHES = 0.05  # rise of the expected deviation from which on an image is named
_DRAWS, _LAST_DRAWS = 2, 5  # random sets of each size, and of the last one
_CLIPPING = (1.0, 8.0, 64.0)  # factors of the noise of clipping that are tried
_GAIN_IMAGES = 8

Score = Callable[[fx.GraphModule], float]


def pick_calibration(
    options: PickOptions, target: NpuTarget, console: Console
) -> tuple[Choice, list[int], NetworkInputs, Source]:
    """Choose calibration images and judge the choice on others.

    Statistics of each candidate are measured once. Sets are chosen greedily by the deviation that these let expect,
    with several weights of clipping against rounding; some of the candidates, really quantized, decide between them.
    What is reported is measured with real quantization on images that had no part in the choice.

    Returns:
        The outcome; which of the inputs its recommended set is; the inputs; and the network.

    Raises:
        ConfigError: the network cannot be used, or the target does not calibrate by minimum and maximum.
        DataError: the images cannot be used.
    """
    started = time.perf_counter()
    if target.calibrator != "minmax":
        raise ConfigError(
            f"target {target.name} calibrates by {target.calibrator}: images are picked for tool chains that take the "
            "minimum and maximum over all of them, as --target per-tensor-minmax does"
        )
    source, inputs, option = _opened(options)
    others, left_out = inputs, LEFT_OUT
    if options.judge_images is None:
        candidates, judged = divide(len(inputs), options.candidates, options.held_out)
        tuned = candidates[:: max(1, len(candidates) // options.held_out)]
    else:
        others = NetworkInputs(options.judge_images, source.shape, inputs.name, inputs.pixels, inputs.resize)
        left_out = 0.0
        candidates, both = spaced(len(inputs), options.candidates), spaced(len(others), 2 * options.held_out)
        if len(both) < 2:
            raise DataError(f"{options.judge_images} has {len(both)} image, expected 2: some decide, others judge")
        tuned, judged = both[::2], both[1::2]
    warnings = list(source.notes)
    for note in dict.fromkeys((inputs.note(option), others.note(option))):
        if note:
            console.print(Text(f"note     {note}", "yellow"), soft_wrap=True)
    if len(candidates) + len(judged) < FEW_IMAGES:
        warnings.append(
            f"only {len(candidates)} images to choose from and {len(judged)} to judge on: the numbers are uncertain"
        )

    def load(given: NetworkInputs, indices: Sequence[int]) -> list[Tensor]:
        batches = [indices[k : k + source.batch] for k in range(0, len(indices), source.batch)]
        return [source.interface.feed(torch.stack([given.load(index) for index in each])) for each in batches]

    offered = load(inputs, candidates)
    graph = Preparer(source.network, Context(target, offered[:1], source.interface))(NAIVE).graph
    quantized = fake_quantize(graph, target)
    images = measure_images(quantized, offered, console.is_terminal)
    usual = load(others, tuned)
    tuning = _Judge(graph, quantized, source.interface, images, usual, left_out)
    judge = _Judge(graph, quantized, source.interface, images, load(others, judged), left_out)
    gains, variance = noise_gains(quantized, usual[: max(1, _GAIN_IMAGES // source.batch)], judge.outcome)
    served = images if options.judge_images is None else measure_images(quantized, usual)
    count = min(options.count, len(candidates))
    drawn = random.Random(options.seed)
    cost = RangeCost(served, gains, variance, target.activations, left_out)
    sets = {tuple(choose_greedily(cost, images, count, factor)): factor for factor in _CLIPPING}
    picked = min(sets, key=tuning)
    sizes = sorted({1, *(2**k for k in range(1, 12) if 2**k < len(picked)), len(picked)})
    rows = []
    draws: list[list[int]] = []
    with counting("sets of images", len(sizes), console) as done:
        for size in sizes:
            last = size == len(picked)
            draws = [drawn.sample(range(len(candidates)), size) for _ in range(_LAST_DRAWS if last else _DRAWS)]
            rows.append(SizeRow(size, judge(picked[:size]), tuple(judge(each) for each in draws)))
            done()
    every = judge(range(len(candidates)))
    worst_with = [max(judge.each(each)) for each in (picked, range(len(candidates)))]
    recommended = recommend(judge(picked), rows[-1].random_mean, every)
    chosen = {
        "picked": list(picked),
        "all": list(range(len(candidates))),
        "random": min(draws, key=lambda each: (tuning(each), each)),
    }[recommended]
    names = [str(inputs.files[index]) for index in candidates]
    stretching = [
        Stretching(names[k], rise, site)
        for k, (rise, site) in enumerate(stretch_of(cost, images, picked, sets[picked]))
        if rise > STRETCHES
    ]
    choice = Choice(
        unit=judge.unit,
        candidates=len(candidates),
        held_out=len(judged),
        picked=tuple(names[k] for k in picked),
        rows=tuple(rows),
        every=every,
        worst=(worst_with[0], worst_with[1]),
        recommended=recommended,
        chosen=tuple(names[k] for k in chosen),
        stretching=tuple(sorted(stretching, key=lambda each: -each.rise)),
        warnings=tuple(warnings),
        seconds=time.perf_counter() - started,
    )
    return choice, [candidates[k] for k in chosen], inputs, source


class _Judge:
    """Deviation from FP32 of the network, really quantized with the ranges of some images, on other images."""

    def __init__(
        self,
        graph: fx.GraphModule,
        quantized: fx.GraphModule,
        interface: Interface,
        images: ImageRanges,
        batches: Sequence[Tensor],
        left_out: float,
    ) -> None:
        self.quantized, self.interface, self.images, self.batches = quantized, interface, images, batches
        self.left_out = left_out
        self.raw = isinstance(interface.outputs, RawOutputs)
        self.unit = "%" if self.raw else "mm"
        self._known: dict[frozenset[int], list[float]] = {}
        with torch.inference_mode():
            exact = [graph(each) for each in batches]
            self._sizes = self._rms(exact) if self.raw else {}
            self.expected = [self.outcome(each) for each in exact]

    def outcome(self, returned: Tensor | Sequence[Tensor]) -> Tensor:
        """What deviates: depth in metres, or every output in units of its size in the float network."""
        if not self.raw:
            return DepthCodec(self.interface.codec).decode(self.interface.outputs.codes(returned))
        values = self.interface.outputs.tensors(returned)
        return torch.cat([each.float().flatten(1) / self._sizes[name] for name, each in values.items()], 1)

    def _rms(self, exact: Sequence[Tensor | Sequence[Tensor]]) -> dict[str, float]:
        """The size of each output of the float network: root of the mean square over all images."""
        every = [self.interface.outputs.tensors(each) for each in exact]
        return {
            name: max(1e-9, torch.cat([each[name].float().flatten() for each in every]).square().mean().sqrt().item())
            for name in every[0]
        }

    def __call__(self, images: Sequence[int]) -> float:
        """Deviation, in the judge's unit, with the ranges of these images."""
        return float(typical(np.array(self.each(images)), self.left_out))

    def each(self, images: Sequence[int]) -> list[float]:
        """The deviation of each image."""
        key = frozenset(images)
        if key not in self._known:
            self._known[key] = self._measure(sorted(key))
        return self._known[key]

    def _measure(self, images: Sequence[int]) -> list[float]:
        try:
            network = with_ranges(self.quantized, self.images.of(images), self.interface.inputs.range)
        except UserError:  # ranges so narrow that no integer holds a bias
            return [float("inf")] * sum(map(len, self.expected))
        found = []
        with torch.inference_mode():
            for batch, expected in zip(self.batches, self.expected, strict=True):
                apart, size = (self.outcome(network(batch)) - expected).flatten(1), expected.flatten(1)
                relative = 100 * apart.norm(dim=1) / size.norm(dim=1).clamp(min=1e-9)
                found.append(relative if self.raw else 1000 * apart.abs().mean(1))
        return [float(each) for each in torch.cat(found).nan_to_num(nan=float("inf"))]


def _opened(options: PickOptions) -> tuple[Source, NetworkInputs, str | None]:
    """The network, with what is known of its outputs, its inputs, and how another resize of these is asked for."""
    of_data = options.images.suffix.lower() in CONFIGS
    is_onnx = options.network.suffix.lower() == ".onnx"
    overrides = () if is_onnx and of_data else options.overrides
    bundle = bundle_of(options.network) if is_onnx else None
    if bundle is not None:
        bundle.require_float(options.network)
    source = open_source(options.network, options.size, overrides)
    pixels = source.pixels
    if bundle is not None:
        source = dataclasses.replace(
            source, interface=dataclasses.replace(source.interface, outputs=bundle.layout, codec=bundle.codec)
        )
        pixels = bundle.pixels
    if pixels is not None and options.pixels is not None:
        raise ConfigError(
            f"{options.network} knows how its images are normalized ({pixels}): leave out --normalize, --mean, --std "
            "and --colour-order"
        )
    assumed = PixelFormat.named("raw" if source.takes_uint8 else "imagenet")
    name, form = source.interface.inputs.name, pixels or options.pixels or assumed
    bundled = None if bundle is None else bundle.input
    resize, option = resize_of(source, options.resize, bundled), resize_option(source, bundled)
    if not of_data:
        return source, NetworkInputs(options.images, source.shape, name, form, resize), option
    return source, DatasetInputs(_training_images(options.images, options), source.shape, name, form, resize), option


def _training_images(config: Path, options: PickOptions) -> DepthDataset:
    data, _ = load_data(config, options.overrides)
    if data.train is None:
        raise ConfigError(f"{config} names no data.train: calibration images are taken from the training split")
    return data.train
