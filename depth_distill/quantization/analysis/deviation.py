"""How far a quantized network is from itself in FP32: no ground truth, any number of outputs of any meaning."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from depth_distill.errors import ConfigError, DataError

Outputs = Mapping[str, Tensor]
"""What a network returned for one batch, by name of the output."""

_QUIET = 0.01  # an image whose output is below this share of the output's usual size is judged on that scale
_TINY = 1e-12


@dataclass(frozen=True)
class Deviation:
    """Relative error of every output: RMS of the error over RMS of the FP32 output, per image, then the mean.

    Attributes:
        by_output: relative error by name of the output.
        images: number of images.
    """

    by_output: Mapping[str, float]
    images: int

    @property
    def worst(self) -> str:
        """Name of the output with the largest relative error."""
        return max(self.by_output, key=lambda name: self.by_output[name])

    @property
    def relative(self) -> float:
        """Relative error of the worst output."""
        return self.by_output[self.worst]

    @property
    def sqnr_db(self) -> float:
        """The same as signal to quantization noise ratio in dB: 20 dB is 10 %, 40 dB is 1 %."""
        return sqnr_db(self.relative)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "sqnr_db": self.sqnr_db,
            "relative_error": self.relative,
            "worst_output": self.worst,
            "by_output": dict(self.by_output),
            "images": self.images,
        }

    def __str__(self) -> str:
        return f"{self.sqnr_db:.1f} dB, {100 * self.relative:.2g} %"


class DeviationScorer:
    """Measures networks against one FP32 network on a few images, which are held in memory.

    Args:
        batches: inputs of the networks.
        reference: the FP32 network; called once per batch.

    Raises:
        DataError: there are no images, or FP32 itself returns NaN or infinity.
    """

    def __init__(self, batches: Sequence[Tensor], reference: Callable[[Tensor], Outputs]) -> None:
        if not batches:
            raise DataError("there are no held-out images to measure the deviation on: expected at least one")
        self.batches = batches
        with torch.inference_mode():
            self.expected = [_per_image(reference(batch), len(batch)) for batch in batches]
        for name in self.expected[0]:
            if not all(bool(each[name].isfinite().all()) for each in self.expected):
                raise DataError(
                    f"the output {name!r} is NaN or infinite in FP32 on these images: check how they become the input"
                )
        self._size = {
            name: math.sqrt(sum(float(_mean_square(each[name]).mean()) for each in self.expected) / len(batches))
            for name in self.expected[0]
        }

    def __call__(self, network: Callable[[Tensor], Outputs]) -> Deviation:
        """The deviation of a network; infinite where it returns NaN.

        Raises:
            ConfigError: an output has another number of values than in FP32.
        """
        errors: dict[str, list[Tensor]] = {name: [] for name in self._size}
        with torch.inference_mode():
            for batch, expected in zip(self.batches, self.expected, strict=True):
                received = _per_image(network(batch), len(batch))
                for name, reference in expected.items():
                    if received[name].shape != reference.shape:
                        raise ConfigError(
                            f"the output {name!r} has another number of values after quantization: its shape depends "
                            "on the values, as behind non-maximum suppression; end the network before that"
                        )
                    noise = _mean_square(received[name] - reference).sqrt()
                    signal = _mean_square(reference).sqrt().clamp(min=max(_QUIET * self._size[name], _TINY))
                    largest = math.inf if self._size[name] > _TINY else 1.0  # always zero in FP32: wrong is 100 %
                    errors[name].append((noise / signal).nan_to_num(nan=math.inf).clamp(max=largest))
        means = {name: float(torch.cat(each).mean()) for name, each in errors.items()}
        return Deviation(means, sum(len(batch) for batch in self.batches))


def sqnr_db(relative: float) -> float:
    """Signal to quantization noise ratio in dB of a relative RMS error."""
    return -20 * math.log10(max(relative, _TINY)) if relative < math.inf else -math.inf


def _per_image(outputs: Outputs, count: int) -> dict[str, Tensor]:
    """Every output as ``(B, values)`` float32 on the CPU; as one row where images are not its first dimension."""
    rows = {name: count if value.ndim and value.shape[0] == count else 1 for name, value in outputs.items()}
    return {name: value.detach().float().cpu().reshape(rows[name], -1) for name, value in outputs.items()}


def _mean_square(values: Tensor) -> Tensor:
    """Mean of the squares of each image, ``(B,)`` float64; 0 for an output without values."""
    return values.double().square().sum(1) / max(1, values.shape[1])
