"""Activation ranges from calibration images, as plain data."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from rich.progress import track
from torch import Tensor, fx, nn

from depth_distill.atomic import write_json
from depth_distill.device import device_of, full_precision
from depth_distill.errors import ConfigError, DataError
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import preserve_quantizer_state, quantizers
from depth_distill.quantization.simulate.statistics import RangeStatistic, range_statistic
from depth_distill.quantization.target.target import CalibratorName
from depth_distill.suggestions import did_you_mean


@dataclass(frozen=True)
class Calibration:
    """Activation ranges from calibration. Weight ranges are not included: they follow from the weights.

    Attributes:
        calibrator: statistic that the ranges were measured with.
        samples: number of calibration images.
        weights_sha256: hash of the network's weights, see :func:`weights_hash`.
        ranges: lowest and highest value by site.

    Raises:
        ConfigError: a range is not finite, or its ends are swapped.
    """

    calibrator: CalibratorName
    samples: int
    weights_sha256: str
    ranges: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for site, (low, high) in self.ranges.items():
            if not -float("inf") < low <= high < float("inf"):
                raise ConfigError(f"calibration: {site}: received the range {low} to {high}, expected low <= high")

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read a file from :meth:`save`.

        Raises:
            ConfigError: the file does not exist, or is not a calibration.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text())
            ranges = {site: (float(low), float(high)) for site, (low, high) in values.pop("ranges").items()}
            return cls(**values, ranges=ranges)
        except FileNotFoundError as error:
            raise ConfigError(f"calibration {path} does not exist") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path} is not a calibration: {error}") from error


def calibrate(
    quantized: nn.Module,
    batches: Iterable[Tensor],
    calibrator: CalibratorName = "minmax",
    percentile: float = 99.99,
    progress: bool = True,
) -> Calibration:
    """Ranges of the *float* network's activations over all batches, as a tool chain with PTQ measures them.

    Each batch is used once and not kept: memory does not depend on the number of batches, and the result does not
    depend on the batch size. The network is not changed: see :func:`apply_calibration`.

    Args:
        quantized: a network from :func:`~depth_distill.quantization.simulate.fake_quantize.fake_quantize`.
        batches: normalized images ``(B, 3, H, W)``.
        calibrator: ``minmax``; ``moving_average`` of each image's minimum and maximum; ``percentile``; or ``mse``,
            the smallest mean squared error of the values after rounding.
        percentile: percentage of the values inside the range; for ``percentile`` only.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: the calibrator is unknown, the percentile is outside (0, 100], or the network has no quantizers.
        DataError: there are no images, or a tensor has NaN or infinity; the message names it and the first such image.
    """
    if calibrator not in get_args(CalibratorName):
        raise ConfigError(f"calibrator: received {calibrator!r}, {did_you_mean(calibrator, get_args(CalibratorName))}")
    if not 0 < percentile <= 100:
        raise ConfigError(f"percentile: received {percentile}, expected more than 0 and at most 100")
    statistics = {
        site: range_statistic(calibrator, quantizer.tensor_format, percentile)
        for site, quantizer in activation_quantizers(quantized).items()
    }
    if not statistics:
        raise ConfigError("the network has no activation quantizers: fake_quantize it before calibrating")
    device = device_of(quantized)
    first_of_batch = 0

    def observe(quantizer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(quantizer, FakeQuantizer)
        _update(statistics[quantizer.site], arguments[0], quantizer.site, first_of_batch)

    training = quantized.training
    hooks = [each.register_forward_pre_hook(observe) for each in activation_quantizers(quantized).values()]
    try:
        with preserve_quantizer_state(quantized), torch.inference_mode(), full_precision(device):
            quantized.eval()
            for quantizer in quantizers(quantized).values():
                quantizer.enabled = False
            for batch in track(batches, description=f"calibrate ({calibrator})", transient=True, disable=not progress):
                quantized(batch.to(device))
                first_of_batch += len(batch)
    finally:
        quantized.train(training)
        for hook in hooks:
            hook.remove()
    if not first_of_batch:
        raise DataError("the calibration set is empty: expected at least one image")
    ranges = {site: statistic.range() for site, statistic in statistics.items()}
    return Calibration(calibrator, first_of_batch, weights_hash(quantized), ranges)


def apply_calibration(calibration: Calibration, quantized: nn.Module) -> None:
    """Set the activation ranges of a network, in place.

    Raises:
        ConfigError: the weights have changed since calibration, or the network has other sites.
    """
    if calibration.weights_sha256 != weights_hash(quantized):
        raise ConfigError("this calibration was measured on other weights: calibrate again after every weight change")
    set_ranges(quantized, calibration.ranges)


def set_ranges(quantized: nn.Module, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Set the activation ranges of a network, in place.

    Raises:
        ConfigError: the network has other sites.
    """
    sites = activation_quantizers(quantized)
    for site in sites:
        if site not in ranges:
            raise ConfigError(f"the calibration lacks the range of {site}; {did_you_mean(site, list(ranges))}")
    for site, (low, high) in ranges.items():
        if site not in sites:
            raise ConfigError(
                f"the calibration has a range of {site}, but the network does not; {did_you_mean(site, sites)}"
            )
        sites[site].set_range(low, high)


def activation_quantizers(quantized: nn.Module) -> dict[str, FakeQuantizer]:
    """The quantizers of input, activations and outputs, by site: all but those of weights."""
    return {site: quantizer for site, quantizer in quantizers(quantized).items() if quantizer.kind != "weight"}


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of the names and bytes of all parameters and buffers, except those of quantizers."""
    digest = hashlib.sha256()
    for path, module in model.named_modules():
        if isinstance(module, FakeQuantizer):
            continue
        for collection in (module.named_parameters, module.named_buffers):
            for name, value in collection(recurse=False):
                digest.update(f"{path}.{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def structure_hash(graph: fx.GraphModule) -> str:
    """SHA-256 of what a graph computes besides its weights: its modules with their arguments, and its code.

    The bounds of a clip, or a ReLU in place of a ReLU6, are no parameters, so :func:`weights_hash` does not see them.
    """
    return hashlib.sha256(str(graph).encode()).hexdigest()


def _update(statistic: RangeStatistic, values: Tensor, site: str, first_sample: int) -> None:
    lows, highs = (each.tolist() for each in values.flatten(1).aminmax(dim=1))
    for index, (sample, low, high) in enumerate(zip(values, lows, highs, strict=True), start=first_sample):
        # A NaN anywhere makes both NaN, an infinity is the minimum or the maximum.
        if not -float("inf") < low <= high < float("inf"):
            raise DataError(f"{site}: NaN or infinity in the float network at calibration sample {index}")
        statistic.update(sample, low, high)
