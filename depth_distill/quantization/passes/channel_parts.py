"""Sharing out channels among a few tensors, so that each tensor's scale suits its channels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spread:
    """What one tensor loses to its scale: the noise of a channel is its weight times the tensor's largest square.

    Attributes:
        squares: square of the largest magnitude of each channel, ``(C,)``.
        weights: how much a unit of noise in each channel counts, ``(C,)``.
    """

    squares: Tensor
    weights: Tensor

    def noise(self, parts: Sequence[Tensor]) -> float:
        """Noise if each part, channel numbers ``(n,)``, has a scale of its own."""
        return sum(float(self.squares[part].max() * self.weights[part].sum()) for part in parts)


def share_out(spreads: Sequence[Spread], count: int, multiple: int = 1) -> tuple[Tensor, ...]:
    """Channel numbers of each of at most ``count`` parts, so that the sum of the tensors' noise is small.

    Channels in the order of their magnitude are cut at the best places, found by dynamic programming. For one tensor
    that is the optimum; for several tensors with the same channels it is the best over the orders of each one.

    Args:
        spreads: of each tensor, all with the same channels.
        count: largest number of parts.
        multiple: number of channels that a part is a multiple of, except the last.
    """
    whole = [spread.noise([torch.arange(len(spread.squares))]) for spread in spreads]
    scaled = [
        Spread(spread.squares, spread.weights / max(noise, torch.finfo(torch.float64).tiny))
        for spread, noise in zip(spreads, whole, strict=True)
    ]
    orders = [spread.squares.argsort(descending=True) for spread in scaled]
    if len(scaled) > 1:
        orders.append(sum(spread.squares.clamp(min=1e-30).log() for spread in scaled).argsort(descending=True))  # type: ignore[union-attr]
    candidates = [_cut(order, scaled, count, multiple) for order in orders]
    return min(candidates, key=lambda parts: sum(spread.noise(parts) for spread in scaled))


def _cut(order: Tensor, spreads: Sequence[Spread], count: int, multiple: int) -> tuple[Tensor, ...]:
    blocks = order.split(multiple)
    noise = torch.zeros(len(blocks), len(blocks), dtype=torch.float64)  # of a part from block i to block j
    for spread in spreads:
        squares = torch.stack([spread.squares[block].max() for block in blocks]).double()
        sums = torch.stack([spread.weights[block].sum() for block in blocks]).double().cumsum(0)
        for first in range(len(blocks)):
            before = sums[first - 1] if first else 0.0
            noise[first, first:] += squares[first:].cummax(0).values * (sums[first:] - before)
    best = [noise[0]]  # best[k][j]: blocks up to j in k + 1 parts
    starts: list[Tensor] = [torch.zeros(len(blocks), dtype=torch.int64)]
    for _ in range(1, min(count, len(blocks))):
        totals = torch.full((len(blocks), len(blocks)), torch.inf, dtype=torch.float64)  # [first of the last part, j]
        totals[1:] = best[-1][:-1, None] + noise[1:]
        totals[torch.ones_like(totals, dtype=torch.bool).tril(-1)] = torch.inf
        least = totals.min(0)
        best.append(least.values)
        starts.append(least.indices)
    parts: list[Tensor] = []
    last = len(blocks)
    for level in range(len(best) - 1, -1, -1):
        first = int(starts[level][last - 1]) if level else 0
        parts.insert(0, torch.cat(blocks[first:last]))
        last = first
    return tuple(parts)
