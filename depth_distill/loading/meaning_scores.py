"""What the output of an imported network means, and could mean as well, judged by its range and by ground truth."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.loading.meaning import Meaning
from depth_distill.models import DepthCodec

_MARGIN = 1e-4  # of a code outside of [0, 1], by rounding
# Another meaning must be this much better, and explain this much of the depth, before the given one is called wrong: of
# a network that is not trained, every meaning is bad, and one of them happens to be the least.
_BETTER, _CORRELATED = 0.6, 0.5


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


def output_range(meaning: Meaning, outputs: Sequence[Tensor]) -> OutputRange:
    """Lowest and highest output, and the share that is clipped."""
    values = torch.cat([raw.flatten() for raw in outputs])
    codes = meaning.affine.unclipped(values)
    outside = (codes < -_MARGIN) | (codes > 1 + _MARGIN)
    return OutputRange(float(values.min()), float(values.max()), float(outside.double().mean()))


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
        depth_m = torch.cat([codec.decode(each.affine(raw)) for raw in outputs])
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
