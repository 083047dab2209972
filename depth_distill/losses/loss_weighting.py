"""How named terms become one number."""

import difflib
import math

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError

# Added to each term: exp(-s) settles at 10^6 at most for a term that stays at 0, and a rounding below 0 does no harm.
_FLOOR = 1e-6


class FixedWeights(nn.Module):
    """``sum w_i L_i``, over the terms that a step has.

    Args:
        weights: of each term, by name. A term of weight 0 is left out, and may be anything, NaN included.

    Raises:
        ConfigError: a weight that is negative or not finite, or none above 0.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = _checked(weights)

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """The total.

        Raises:
            ConfigError: a term without a weight, or no term with one.
        """
        return torch.stack([self.weights[name] * terms[name] for name in _weighted(terms, self.weights)]).sum()

    def effective_weights(self) -> dict[str, float]:
        """What each term is multiplied by."""
        return dict(self.weights)


class UncertaintyWeights(nn.Module):
    """Weights that find their own scale: ``sum w_i (exp(-s_i) L_i + s_i)``, with a learned log-variance ``s_i``.

    Twice Kendall et al. 2018, eq. 7, whose term is ``L / (2 sigma^2) + ln sigma`` with ``s = ln sigma^2``; the factor
    makes training begin, at ``s_i = 0``, as with :class:`FixedWeights`. It rests where ``exp(-s_i) L_i = 1``
    for every term, whatever its scale, and what the network then follows is ``sum w_i grad ln L_i``. ``w_i`` stands
    before both parts so that it stays a preference: on the loss alone, ``s_i`` would learn to undo it. The total falls
    below 0 where terms are small.

    Under Adam a log-variance moves by at most about one learning rate per step: a term of 0.001 takes 6.9 / rate of
    them, and one of 1000 twice as many, as its first gradients stay in Adam's second moment. At a rate of 0.001 that is
    8000 and 16000, so this suits terms within a factor of ten of 1, and long runs.
    Terms must not be negative. To each 1e-6 is added, so that ``exp(-s_i)`` of one that stays at 0 settles, at 10^6.

    Args:
        weights: as in :class:`FixedWeights`. Each that is not 0 has an entry in ``log_variances``, in sorted order of
            the names; being a vector, that is without weight decay in this package's tasks.

    Raises:
        ConfigError: as in :class:`FixedWeights`.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = _checked(weights)
        self.names = tuple(sorted(name for name, weight in self.weights.items() if weight))
        self.log_variances = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """The total.

        Raises:
            ConfigError: as in :class:`FixedWeights`.
        """
        log_variances = dict(zip(self.names, self.log_variances, strict=True))
        parts = []
        for name in _weighted(terms, self.weights):
            s = log_variances[name]
            parts.append(self.weights[name] * ((-s).exp() * (terms[name] + _FLOOR) + s))
        return torch.stack(parts).sum()

    def effective_weights(self) -> dict[str, float]:
        """What each term is multiplied by at present, ``w_i exp(-s_i)``."""
        scales = dict(zip(self.names, (-self.log_variances.detach()).exp().tolist(), strict=True))
        return {name: weight * scales.get(name, 0.0) for name, weight in self.weights.items()}


def _checked(weights: dict[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"the weight of {name!r} must be a finite number of 0 or more, got {weight}")
    if not any(weights.values()):
        raise ConfigError(f"at least one term needs a weight above 0, got {weights}")
    return {name: float(weight) for name, weight in weights.items()}


def _weighted(terms: dict[str, Tensor], weights: dict[str, float]) -> list[str]:
    """The names of the terms that count."""
    for name in terms:
        if name not in weights:
            nearest = difflib.get_close_matches(name, weights, n=1) or sorted(weights)
            raise ConfigError(f"term {name!r} has no weight; did you mean {nearest[0]!r}? Give it 0 to leave it out")
    names = [name for name in terms if weights[name]]
    if not names:
        raise ConfigError(f"none of the terms {sorted(terms)} has a weight above 0; weights are {weights}")
    return names
