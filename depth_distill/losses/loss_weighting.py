"""Weighted sums of named loss terms, with fixed or learned weights."""

import math

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError
from depth_distill.suggestions import did_you_mean

# Added to each term: exp(-s) converges to at most 10^6 for a term that stays at 0, and rounding below 0 is harmless.
_FLOOR = 1e-6


class FixedWeights(nn.Module):
    """``sum w_i L_i`` over the terms that are present in a step.

    Args:
        weights: weight per term name. A term of weight 0 is left out, and may have any value, even NaN.

    Raises:
        ConfigError: a weight is negative or not finite, or no weight is above 0.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = _checked(weights)

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum.

        Raises:
            ConfigError: a term has no entry in the weights, or no term has a weight above 0.
        """
        return torch.stack([self.weights[name] * terms[name] for name in _weighted(terms, self.weights)]).sum()

    def effective_weights(self) -> dict[str, float]:
        """Factor of each term, by name."""
        return dict(self.weights)


class UncertaintyWeights(nn.Module):
    """Uncertainty weighting: ``sum w_i (exp(-s_i) L_i + s_i)``, with a learned log-variance ``s_i`` per term.

    This is twice Kendall et al. 2018, eq. 7, whose term is ``L / (2 sigma^2) + ln sigma`` with ``s = ln sigma^2``; with
    the factor, training starts at ``s_i = 0`` like :class:`FixedWeights`. The optimum is at ``exp(-s_i) L_i = 1`` for
    every term, whatever its scale; the network then follows ``sum w_i grad ln L_i``. ``w_i`` multiplies both parts so
    that it remains a preference: if it multiplied only the loss, ``s_i`` would learn to cancel it. The total is
    negative for small terms.

    Under Adam, a log-variance moves by at most about one learning rate per step: a term of 0.001 needs 6.9 / rate
    steps, and one of 1000 twice as many, as its first gradients stay in Adam's second moment. At a rate of 0.001 that
    is 8000 and 16000 steps, so this suits terms within a factor of ten of 1, and long runs. Terms must not be negative.
    1e-6 is added to each term, so that ``exp(-s_i)`` of a term that stays at 0 converges to 10^6.

    Args:
        weights: as in :class:`FixedWeights`. Each nonzero weight has an entry in ``log_variances``, sorted by name; as
            a vector, this parameter has no weight decay in this package's tasks.

    Raises:
        ConfigError: as in :class:`FixedWeights`.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = _checked(weights)
        self.names = tuple(sorted(name for name, weight in self.weights.items() if weight))
        self.log_variances = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum.

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
        """Current factor of each term, ``w_i exp(-s_i)``, by name."""
        scales = dict(zip(self.names, (-self.log_variances.detach()).exp().tolist(), strict=True))
        return {name: weight * scales.get(name, 0.0) for name, weight in self.weights.items()}


def _checked(weights: dict[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"the weight of {name!r} must be finite and not negative, got {weight}")
    if not any(weights.values()):
        raise ConfigError(f"at least one term needs a weight above 0, got {weights}")
    return {name: float(weight) for name, weight in weights.items()}


def _weighted(terms: dict[str, Tensor], weights: dict[str, float]) -> list[str]:
    """Names of the terms with a nonzero weight."""
    for name in terms:
        if name not in weights:
            raise ConfigError(
                f"term {name!r} has no weight (give it 0 to leave it out); weights: {did_you_mean(name, weights)}"
            )
    names = [name for name in terms if weights[name]]
    if not names:
        raise ConfigError(f"none of the terms {sorted(terms)} has a weight above 0; weights are {weights}")
    return names
