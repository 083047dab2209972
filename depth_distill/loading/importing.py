"""What is verified when a network is imported: the same function, a plausible output, the right meaning."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.loading.meaning import Meaning, steps_of
from depth_distill.models import DepthCodec

TOLERANCE = 1e-4
"""Largest deviation of an imported network from the module, relative to the largest code."""
# Another meaning must be this much better, and explain this much of the depth, before the given one is called wrong: of
# a network that is not trained, every meaning is bad, and one of them happens to be the least.
_BETTER, _CORRELATED = 0.6, 0.5


class SelectedOutput(nn.Module):
    """A module as the user has it: one of its methods, and of what that returns the outputs that are wanted.

    Args:
        module: the module.
        method: method that is called with an image.
        paths: steps to each output.
        together: whether several outputs are concatenated over channels; otherwise they are a tuple.
    """

    def __init__(self, module: nn.Module, method: str, paths: Sequence[Sequence[Any]], together: bool = True) -> None:
        super().__init__()
        self.together = together
        self.module = module
        self.method = method
        self.paths = [steps_of(path) for path in paths]

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The only output, or all of them."""
        returned = getattr(self.module, self.method)(image)
        found = [_at(returned, path) for path in self.paths]
        if len(found) == 1:
            return found[0]
        return torch.cat(found, dim=1) if self.together else tuple(found)


@dataclass(frozen=True)
class OutputRange:
    """The numbers that a network returns on real images.

    Attributes:
        low: lowest output.
        high: highest output.
        clipped: share of the pixels outside of what the meaning says, which become its nearest or farthest depth.
    """

    low: float
    high: float
    clipped: float


def codes_of(meaning: Meaning, raw: Tensor) -> Tensor:
    """Codes in [0, 1] of an output, as the meaning says."""
    scale, offset, _ = meaning.affine
    return (raw.double() * scale + offset).clamp(0, 1).float()


def output_range(meaning: Meaning, outputs: Sequence[Tensor]) -> OutputRange:
    """Lowest and highest output, and the share that is clipped."""
    scale, offset, _ = meaning.affine
    values = torch.cat([raw.flatten() for raw in outputs])
    codes = values.double() * scale + offset
    outside = (codes < -TOLERANCE) | (codes > 1 + TOLERANCE)
    return OutputRange(float(values.min()), float(values.max()), float(outside.double().mean()))


def flat(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """Any outputs of a network as one ``(B, N)``."""
    each = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return torch.cat([values.flatten(1).float() for values in each], dim=1)


def deviation(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Largest difference of codes, relative to the largest code."""
    largest = max(float(each.abs().max()) for each in wanted)
    return max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True)) / max(largest, 1e-30)


def other_meanings(meaning: Meaning) -> Iterator[Meaning]:
    """What the output could mean as well: the other end is near, another encoding, another unit, an inverse."""
    change = dataclasses.replace
    if meaning.codec is not None:
        return
    if meaning.returns in ("codes", "relative"):
        for encoding in ("linear", "inverse", "log"):
            for near in (0, 1):
                if meaning.alignment is None or encoding == meaning.encoding:
                    yield change(meaning, encoding=encoding, near=near)
        return
    for returns in ("metres", "inverse_metres"):
        for unit_m in (1.0, 0.01, 0.001):
            yield change(meaning, returns=returns, unit_m=unit_m)


@dataclass(frozen=True)
class MeaningScore:
    """How well a meaning fits the ground truth.

    Attributes:
        meaning: what the output is taken to mean.
        abs_rel: the metric under it.
        correlation: correlation of log depth with the ground truth over all valid pixels.
    """

    meaning: Meaning
    abs_rel: float
    correlation: float


def score_meanings(meaning: Meaning, evaluator: Evaluator, outputs: Sequence[Tensor]) -> list[MeaningScore]:
    """How what the output means fits the ground truth, first, and what else it could mean, best first."""
    true_m = torch.cat([batch.depth_m[batch.valid] for batch in evaluator.batches])
    scores: list[MeaningScore] = []
    for each in [meaning, *(other for other in other_meanings(meaning) if other != meaning)]:
        codec = DepthCodec(each.host_codec)
        depth_m = torch.cat([codec.decode(codes_of(each, raw)) for raw in outputs])
        aligned = Evaluator(evaluator.batches, codec, evaluator.metrics.bands_m, alignment=each.aligned_by)
        found_m = depth_m[torch.cat([batch.valid for batch in evaluator.batches])]
        both = torch.stack([found_m.log(), true_m.log()]).double()
        correlation = float(torch.corrcoef(both)[0, 1].nan_to_num())
        scores.append(MeaningScore(each, aligned.of_depth(depth_m)["abs_rel"], correlation))
    return [scores[0], *sorted(scores[1:], key=lambda score: score.abs_rel)]


def better_meaning(scores: Sequence[MeaningScore]) -> MeaningScore | None:
    """Another meaning under which the network is so much better that the given one must be wrong."""
    given, *others = scores
    found = [each for each in others if each.correlation > _CORRELATED and each.abs_rel < _BETTER * given.abs_rel]
    return found[0] if found else None


def require_plausible(found: OutputRange, meaning: Meaning) -> None:
    """Refuse a meaning under which most of the image has one depth.

    Raises:
        ConfigError: more than half of the pixels are clipped, or the output is constant.
    """
    if found.high <= found.low:
        raise ConfigError(f"the network returns {found.low:g} everywhere: are its weights loaded?")
    if found.clipped > 0.5:
        raise ConfigError(
            f"meaning: the network returns {found.low:.4g} to {found.high:.4g}, of which {found.clipped:.0%} lie "
            f"outside of what returns: {meaning.returns}, {meaning.depth_range} says: correct the meaning"
        )


def _at(value: Any, path: Sequence[Any]) -> Tensor:
    for step in path:
        try:
            value = getattr(value, step) if isinstance(step, str) and hasattr(value, step) else value[step]
        except (KeyError, IndexError, TypeError) as error:
            keys = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise ConfigError(f"output: step {step!r} leads nowhere; there is {keys}") from error
    if not isinstance(value, Tensor):
        raise ConfigError(f"output: leads to a {type(value).__name__}, expected a tensor: give a longer path")
    return value
