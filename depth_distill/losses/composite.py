"""Several losses as one, each under its name."""

import difflib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError


class CompositeLoss(nn.Module):
    """Named terms and their weighted sum.

    Args:
        terms: modules by name, all called with the same arguments: (prediction, target, valid) where they compare maps,
            a network where they are penalties on its weights.
        weights: weight of each term; 1 unless given.

    Raises:
        ConfigError: no terms, a term named ``total``, or a weight of an unknown term.
    """

    def __init__(self, terms: dict[str, nn.Module], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if not terms or "total" in terms:
            raise ConfigError(f"a loss needs at least one term, none of them named 'total'; got {sorted(terms)}")
        for name in weights or {}:
            if name not in terms:
                nearest = difflib.get_close_matches(name, terms, n=1) or sorted(terms)
                raise ConfigError(f"there is a weight for {name!r} but no such term; did you mean {nearest[0]!r}?")
        self.terms = nn.ModuleDict(terms)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in terms}

    def forward(self, *arguments: Tensor | nn.Module) -> dict[str, Tensor]:
        """Every term, unweighted, and ``total``, their weighted sum."""
        values: dict[str, Tensor] = {name: term(*arguments) for name, term in self.terms.items()}
        values["total"] = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return values
