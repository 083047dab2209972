"""A weighted sum of named losses."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError
from depth_distill.suggestions import did_you_mean


class CompositeLoss(nn.Module):
    """Named terms and their weighted sum.

    Args:
        terms: modules by name, all called with the same arguments: (prediction, target, valid) for losses on depth
            maps, a network for penalties on its weights.
        weights: weight per term; 1 by default.

    Raises:
        ConfigError: there are no terms, a term is named ``total``, a weight belongs to an unknown term or is
            negative, or all are 0.
    """

    def __init__(self, terms: dict[str, nn.Module], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if not terms or "total" in terms:
            raise ConfigError(f"a loss needs at least one term, none of them named 'total'; got {sorted(terms)}")
        for name in weights or {}:
            if name not in terms:
                raise ConfigError(f"weights has {name!r}, but there is no such term; {did_you_mean(name, terms)}")
        given = {name: float((weights or {}).get(name, 1.0)) for name in terms}
        if not all(0 <= weight < math.inf for weight in given.values()) or not any(given.values()):
            raise ConfigError(f"weights of a loss are numbers of 0 or more, and not all 0; received {given}")
        self.terms = nn.ModuleDict(terms)
        self.weights = given

    def forward(self, *arguments: Tensor | nn.Module) -> dict[str, Tensor]:
        """Every term by name, unweighted, and their weighted sum as ``total``."""
        values: dict[str, Tensor] = {name: term(*arguments) for name, term in self.terms.items()}
        values["total"] = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return values
