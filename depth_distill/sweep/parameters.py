"""Parameters of a sweep: their values, and what a sampler needs to know of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from depth_distill.errors import ConfigError
from depth_distill.suggestions import did_you_mean

_KEYS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "constant": (frozenset({"value"}), frozenset()),
    "categorical": (frozenset({"values"}), frozenset()),
    "categorical_w_probabilities": (frozenset({"values", "probabilities"}), frozenset()),
    "int_uniform": (frozenset({"min", "max"}), frozenset()),
    "uniform": (frozenset({"min", "max"}), frozenset()),
    "q_uniform": (frozenset({"min", "max"}), frozenset({"q"})),
    "log_uniform": (frozenset({"min", "max"}), frozenset()),
    "log_uniform_values": (frozenset({"min", "max"}), frozenset()),
    "q_log_uniform_values": (frozenset({"min", "max"}), frozenset({"q"})),
    "normal": (frozenset(), frozenset({"mu", "sigma"})),
    "q_normal": (frozenset(), frozenset({"mu", "sigma", "q"})),
    "log_normal": (frozenset(), frozenset({"mu", "sigma"})),
}
"""Keys that each distribution needs, and those that it may have."""
_TAIL = 0.001  # ends of distributions without any, where their values are checked


@dataclass(frozen=True)
class Parameter:
    """One parameter, with the names and the meaning of Weights & Biases.

    Attributes:
        name: option of the command that it sets, without the leading dashes.
        distribution: how values are drawn.
        options: the other keys, such as ``min`` and ``values``.
    """

    name: str
    distribution: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, name: str, content: Any, where: str) -> "Parameter":
        """Read the entry of a parameter.

        Raises:
            ConfigError: a key or a value is missing, unknown or impossible.
        """
        if not isinstance(content, dict):
            raise ConfigError(f"{where}: received {content!r}, expected keys such as values, or min and max")
        options = {key: value for key, value in content.items() if key != "distribution"}
        distribution = content.get("distribution", _implied(options))
        if distribution not in _KEYS:
            raise ConfigError(f"{where}.distribution: {did_you_mean(str(distribution), _KEYS)}")
        needed, allowed = _KEYS[distribution]
        for key in options:
            if key not in needed | allowed:
                raise ConfigError(f"{where}.{key}: {distribution} takes {', '.join(sorted(needed | allowed))}")
        for key in needed - options.keys():
            raise ConfigError(f"{where}.{key} is missing, which {distribution} needs")
        found = cls(name, distribution, options)
        found._check(where)
        return found

    @property
    def choices(self) -> Sequence[Any] | None:
        """All values of a parameter that has a list of them; None for a range."""
        if self.distribution == "constant":
            return [self.options["value"]]
        return self.options.get("values")

    @property
    def steps(self) -> Sequence[Any] | None:
        """The values that a grid takes; None for a range without steps."""
        if self.choices is not None:
            return self.choices
        if self.distribution == "int_uniform":
            return range(self.options["min"], self.options["max"] + 1)
        if self.distribution == "q_uniform":
            low, high, step = self.options["min"], self.options["max"], self.options.get("q", 1.0)
            return [low + index * step for index in range(int((high - low) / step + 1e-9) + 1)]
        return None

    @property
    def examples(self) -> Sequence[Any]:
        """Values that show whether the command takes the parameter: all choices, or both ends of a range."""
        if self.choices is not None:
            return self.choices
        ends = (_TAIL, 1 - _TAIL) if "min" not in self.options else (0.0, 1.0)
        return [self.at(end) for end in ends]

    @property
    def is_logarithmic(self) -> bool:
        """Whether values are spread by their logarithm."""
        return "log" in self.distribution

    def at(self, quantile: float) -> Any:
        """The value below which a share of the distribution lies; samplers draw the share from [0, 1]."""
        choices, options = self.choices, self.options
        if choices is not None:
            shares = options.get("probabilities") or [1 / len(choices)] * len(choices)
            reached = 0.0
            for choice, share in zip(choices, shares, strict=True):
                reached += share / sum(shares)
                if quantile < reached:
                    return choice
            return choices[-1]
        low, high = options.get("min", 0), options.get("max", 0)
        kind = self.distribution
        if kind == "int_uniform":
            return min(high, low + int(quantile * (high - low + 1)))
        if kind.endswith("normal"):
            inside = min(max(quantile, 1e-6), 1 - 1e-6)
            value = options.get("mu", 0.0) + options.get("sigma", 1.0) * NormalDist().inv_cdf(inside)
            value = math.exp(value) if kind == "log_normal" else value
        elif kind.endswith("log_uniform_values"):
            value = math.exp(math.log(low) + quantile * (math.log(high) - math.log(low)))
        else:
            value = low + quantile * (high - low)
            value = math.exp(value) if kind == "log_uniform" else value
        step = options.get("q", 1.0) if kind.startswith("q_") else None
        return round(value / step) * step if step else float(f"{value:.6g}")

    def _check(self, where: str) -> None:
        options = self.options
        for key, value in options.items():
            if key in ("values", "probabilities"):
                if not isinstance(value, list) or not value:
                    raise ConfigError(f"{where}.{key}: received {value!r}, expected a list with at least one value")
            elif key != "value" and (isinstance(value, bool) or not isinstance(value, int | float)):
                hint = "; YAML reads 1e-4 as text, write 1.0e-4 or 0.0001" if isinstance(value, str) else ""
                raise ConfigError(f"{where}.{key}: received {value!r}, expected a number{hint}")
        if "min" in options and not options["min"] <= options["max"]:
            raise ConfigError(f"{where}: min {options['min']} is larger than max {options['max']}")
        if self.distribution.endswith("log_uniform_values") and not options["min"] > 0:
            raise ConfigError(f"{where}.min: received {options['min']}, expected more than 0 for a logarithm")
        if self.distribution == "int_uniform" and not all(isinstance(each, int) for each in options.values()):
            raise ConfigError(f"{where}: int_uniform needs whole numbers as min and max")
        if options.get("q", 1) <= 0 or options.get("sigma", 0) < 0:
            raise ConfigError(f"{where}: q has to be more than 0, and sigma 0 or more")
        if "probabilities" in options and len(options["probabilities"]) != len(options["values"]):
            raise ConfigError(f"{where}: there are not as many probabilities as values")


def _implied(options: Mapping[str, Any]) -> str:
    """The distribution that Weights & Biases takes where none is named."""
    if "values" in options:
        return "categorical_w_probabilities" if "probabilities" in options else "categorical"
    if "value" in options:
        return "constant"
    ends = [options.get("min"), options.get("max")]
    return "int_uniform" if all(isinstance(each, int) for each in ends) else "uniform"
