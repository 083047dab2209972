"""What each calibration image contributes: ends and histogram of every tensor that the target rounds.

A tool chain that calibrates by minimum and maximum takes the lowest and the highest value over all images. Measured
once for each image, the ranges of any subset follow without running the network again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, fx, nn

from depth_distill.device import device_of, full_precision
from depth_distill.errors import DataError
from depth_distill.quantization.simulate.calibrate import activation_quantizers
from depth_distill.quantization.simulate.fake_quantize import preserve_quantizer_state, quantizers

_BINS = 512  # between the ends of each tensor of each image

Floats = NDArray[np.float64]
_Statistics = tuple[float, float, float, NDArray[np.float32], int]  # lowest, highest, rounded, shares, number of values


@dataclass(frozen=True)
class ImageRanges:
    """Statistics of ``M`` images at ``S`` sites.

    Attributes:
        sites: names of the sites, in graph order.
        lows: lowest value, ``(M, S)``.
        highs: highest value, ``(M, S)``.
        shares: share of the values in each of 512 equal bins between the two, ``(M, S, 512)`` float32.
        rounded: share of the values that are not zero, and so are rounded, ``(M, S)``.
    """

    sites: tuple[str, ...]
    lows: Floats
    highs: Floats
    shares: NDArray[np.float32]
    rounded: Floats

    def __len__(self) -> int:
        return len(self.lows)

    def of(self, images: Sequence[int]) -> dict[str, tuple[float, float]]:
        """What minimum/maximum calibration on some of the images finds: (lowest, highest) by site."""
        chosen = list(images)
        lows, highs = self.lows[chosen].min(0).tolist(), self.highs[chosen].max(0).tolist()
        return {site: (low, high) for site, low, high in zip(self.sites, lows, highs, strict=True)}


def measure_images(quantized: fx.GraphModule, batches: Iterable[Tensor], progress: bool = False) -> ImageRanges:
    """Statistics of the *float* network's tensors, image by image.

    Args:
        quantized: a network from :func:`~depth_distill.quantization.simulate.fake_quantize.fake_quantize`; it is not
            changed.
        batches: inputs of the network, ``(B, ...)``.
        progress: whether to show a progress bar.

    Raises:
        DataError: there are no images, or a tensor has NaN or infinity; the message names it and the first such image.
    """
    sites = activation_quantizers(quantized)
    rows: list[dict[str, _Statistics]] = []

    def observe(site: str, values: Tensor) -> None:
        for index, each in enumerate(values.detach().flatten(1), start=len(rows) - len(values)):
            low, high = (float(end) for end in each.aminmax())
            if not -float("inf") < low <= high < float("inf"):
                raise DataError(f"{site}: NaN or infinity in the float network at image {index}")
            share = float(each.count_nonzero()) / each.numel()
            found = (low, high, share, _histogram(each, low, high), each.numel())
            rows[index][site] = _joined(rows[index][site], found) if site in rows[index] else found

    with _watched(quantized, observe), torch.inference_mode():
        for batch in track(batches, description="ranges of each image", transient=True, disable=not progress):
            rows += [{} for _ in batch]
            quantized(batch.to(device_of(quantized)))
    if not rows:
        raise DataError("there are no calibration images: expected at least one")
    columns = [[[image[site][place] for site in sites] for image in rows] for place in range(4)]
    lows, highs, rounded = (np.array(each, np.float64) for each in columns[:3])
    return ImageRanges(tuple(sites), lows, highs, np.array(columns[3], np.float32), rounded)


def noise_gains(
    quantized: fx.GraphModule, batches: Iterable[Tensor], outcome: Callable[[Any], Tensor], seed: int = 0
) -> tuple[Floats, float]:
    """How much of a tensor's noise arrives at the outcome, and the variance of the outcome itself.

    White noise of variance 1 in the tensor of a site gives each value of the outcome the variance ``E |J^T v|^2 /
    len(v)``, to first order, with the Jacobian ``J`` from the tensor to the outcome and random signs ``v`` (Hutchinson
    1990). One backward pass for each batch serves all sites.

    Args:
        quantized: a network from ``fake_quantize``; it is not changed.
        batches: inputs of the network.
        outcome: what counts, ``(B, ...)``, from what the network returned; differentiable.
        seed: seed of the signs.

    Returns:
        The gains ``(S,)`` in the order of :class:`ImageRanges`, the median over images; and the variance.
    """
    generator = torch.Generator().manual_seed(seed)
    seen: list[tuple[str, Tensor]] = []
    order = list(activation_quantizers(quantized))
    gains, outcomes = [], []
    with _watched(quantized, lambda site, values: seen.append((site, values))), torch.enable_grad():
        for batch in batches:
            seen.clear()
            leaf = batch.detach().to(device_of(quantized)).clone().requires_grad_()  # the caller's stays as it is
            found = outcome(quantized(leaf))
            signs = torch.randint(0, 2, found.shape, generator=generator).to(found) * 2 - 1
            gradients = torch.autograd.grad(found, [values for _, values in seen], signs, allow_unused=True)
            rows = torch.zeros(len(found), len(order))
            for (site, _), gradient in zip(seen, gradients, strict=True):
                if gradient is not None:
                    rows[:, order.index(site)] += gradient.flatten(1).square().sum(1).cpu() / found[0].numel()
            gains.append(rows)
            outcomes.append(found.detach().flatten(1).cpu())
    median = torch.cat(gains).nan_to_num().median(0).values
    return median.double().numpy(), float(torch.cat(outcomes).double().var())


@contextmanager
def _watched(quantized: fx.GraphModule, watch: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Within the block the network runs in float, and each tensor that a site would round is shown."""

    def hook(quantizer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        watch(str(quantizer.site), arguments[0])

    training = quantized.training
    hooks = [each.register_forward_pre_hook(hook) for each in activation_quantizers(quantized).values()]
    try:
        with preserve_quantizer_state(quantized), full_precision(device_of(quantized)):
            quantized.eval()
            for quantizer in quantizers(quantized).values():
                quantizer.enabled = False
            yield
    finally:
        quantized.train(training)
        for each in hooks:
            each.remove()


def _histogram(values: Tensor, low: float, high: float) -> NDArray[np.float32]:
    counts = torch.histc(values.float(), _BINS, low, high) if high > low else torch.zeros(_BINS)
    if not high > low:
        counts[0] = len(values)  # a constant
    shares: NDArray[np.float32] = (counts / counts.sum()).cpu().numpy()
    return shares


def _joined(one: _Statistics, two: _Statistics) -> _Statistics:
    """Two tensors of a site that shares its scale, as one, each with the weight of its values."""
    count = one[4] + two[4]
    low, high = min(one[0], two[0]), max(one[1], two[1])
    shares = np.zeros(_BINS, np.float32)
    for each in (one, two):
        centres = each[0] + (np.arange(_BINS) + 0.5) / _BINS * (each[1] - each[0])
        bins = np.clip((centres - low) / max(high - low, 1e-30) * _BINS, 0, _BINS - 1).astype(int)
        shares += np.bincount(bins, each[3] * (each[4] / count), minlength=_BINS).astype(np.float32)
    return low, high, (one[2] * one[4] + two[2] * two[4]) / count, shares, count
