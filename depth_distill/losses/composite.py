"""A weighted sum of named losses."""

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
        ConfigError: there are no terms, a term is named ``total``, or a weight belongs to an unknown term.
    """

    def __init__(self, terms: dict[str, nn.Module], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if not terms or "total" in terms:
            raise ConfigError(f"a loss needs at least one term, none of them named 'total'; got {sorted(terms)}")
        for name in weights or {}:
            if name not in terms:
                raise ConfigError(f"weights has {name!r}, but there is no such term; {did_you_mean(name, terms)}")
        self.terms = nn.ModuleDict(terms)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in terms}

    def forward(self, *arguments: Tensor | nn.Module) -> dict[str, Tensor]:
        """Every term by name, unweighted, and their weighted sum as ``total``."""
        values: dict[str, Tensor] = {name: term(*arguments) for name, term in self.terms.items()}
        values["total"] = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return values
