"""Recipes: the ordered passes that make a float network ready for an NPU. :mod:`.preparation` runs them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depth_distill.errors import ConfigError
from depth_distill.quantization.passes.base import Pass
from depth_distill.quantization.passes.equalize import Equalize
from depth_distill.quantization.passes.fold import Fold
from depth_distill.quantization.passes.registry import PASSES
from depth_distill.quantization.passes.stress import Stress
from depth_distill.quantization.passes.surgery.surgery import Surgery
from depth_distill.quantization.target.validated import FieldError, validated_from_mapping
from depth_distill.shipped_configs import shipped_folder, shipped_names
from depth_distill.suggestions import did_you_mean
from depth_distill.yaml_files import parse_yaml, read_yaml

DEFAULT_RECIPE = "equalize"


@dataclass(frozen=True)
class Recipe:
    """An ordered list of passes: frozen, hashable, and the same thing in YAML, in a manifest and in a checkpoint.

    Attributes:
        passes: passes in the order in which they run.
        name: name of the recipe, for titles; it does not count for equality.

    Raises:
        ConfigError: an order that cannot be right.
    """

    passes: tuple[Pass, ...]
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        names = [each.name for each in self.passes]
        for each in (
            "fold",
            "equalize",
            "split_channels",
            "split_weights",
            "clip_ranges",
            "bake_ranges",
            "thermometer",
            "pair",
            "logits",
            "separate_outputs",
            "uint8_input",
            "auto",
        ):
            if names.count(each) > 1:
                raise ConfigError(f"recipe {self}: {each} stands there {names.count(each)} times, expected once")
        if "fold" in names and names[0] != "fold":
            raise ConfigError(f"recipe {self}: fold comes after {names[0]}: put it first")
        surgeries = [place for place, each in enumerate(self.passes) if isinstance(each, Surgery)]
        rescaled = [each for each in names[: max(surgeries, default=0)] if each in ("equalize", "stress")]
        if rescaled:
            raise ConfigError(
                f"recipe {self}: {names[surgeries[-1]]} replaces operators, and with them which channels can be "
                f"rescaled: put it before {rescaled[0]}"
            )
        for rescaling in ("equalize", "stress"):
            if "bake_ranges" in names and rescaling in names:
                raise ConfigError(
                    f"recipe {self}: bake_ranges keeps ranges that were learned for the present channel scales, and "
                    f"{rescaling} changes these: leave one of them out"
                )
        for each in ("thermometer", "logits", "separate_outputs"):
            if "pair" in names and each in names:
                raise ConfigError(
                    f"recipe {self}: pair returns integer and fractional in place of a code or its logits, and {each} "
                    "would change the same outputs: leave one of them out"
                )
        for head in ("pair", "thermometer"):
            behind = self.passes[names.index(head) :] if head in names else ()
            if any(isinstance(each, Equalize) and each.relu6 == "bounded" for each in behind):
                raise ConfigError(
                    f"recipe {self}: the codes of {head} are clipped on purpose, each on other images, and equalize "
                    "with relu6: bounded scales those that no calibration image reached the end of: put it before "
                    f"{head}"
                )
        for earlier, refused, reason in _ORDERS:
            for each in names[names.index(earlier) :] if earlier in names else ():
                if each in refused:
                    raise ConfigError(f"recipe {self}: {reason.format(each)}: put {each} before {earlier}")
        rounding = [place for place, each in enumerate(names) if each in ROUNDING]
        late = [each for each in names[rounding[0] + 1 :] if each not in ROUNDING] if rounding else []
        if late:
            raise ConfigError(
                f"recipe {self}: {names[rounding[0]]} fits weights to the grid of the network as it is, and {late[0]} "
                f"changes the network behind it: put {late[0]} before"
            )

    @classmethod
    def from_entries(cls, entries: Any, name: str = "") -> "Recipe":
        """A recipe from the list of a YAML file: names of passes, or ``name: {argument: value}``.

        Raises:
            ConfigError: not such a list, an unknown pass, or an argument that the pass does not take.
        """
        where = f"recipe {name}" if name else "recipe"
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise ConfigError(f"{where}: received {entries!r}, expected a list of passes ({', '.join(PASSES)})")
        return cls(tuple(_pass_of(entry, f"{where}, pass {place}") for place, entry in enumerate(entries, 1)), name)

    def to_entries(self) -> list[dict[str, Any]]:
        """Plain data from which :meth:`from_entries` makes an equal recipe; every argument is written out."""
        return [each.to_dict() for each in self.passes]

    @property
    def sha256(self) -> str:
        """Hash of the passes and their arguments: what a resumed job compares."""
        return hashlib.sha256(json.dumps(self.to_entries(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The record of a manifest or checkpoint."""
        return {"name": self.name, "passes": self.to_entries(), "sha256": self.sha256}

    @property
    def title(self) -> str:
        """The names of its passes, for people: ``fold + equalize``."""
        return " + ".join(each.name for each in self.passes)

    def has(self, name: str) -> bool:
        """Whether a pass of this name is in it."""
        return any(each.name == name for each in self.passes)

    @property
    def keeps_scales(self) -> bool:
        """Whether ``equalize`` is in it, or a pass fitted to the channel scales: ``equalize`` may not follow."""
        return any(self.has(name) for name in ("equalize", "bake_ranges", *_LAST))

    def then(self, *more: Pass) -> "Recipe":
        """The recipe and more passes behind it; without a name."""
        return Recipe((*self.passes, *more))

    @property
    def bare(self) -> "Recipe":
        """The recipe without what serves nothing but accuracy in INT8; ``naive`` where only ``fold`` is left."""
        left = tuple(each for each in self.passes if not each.for_int8)
        return Recipe(left, "naive" if left == NAIVE.passes else "")

    def without(self, *names: str) -> "Recipe":
        """The recipe without the passes of these names; without a name."""
        return Recipe(tuple(each for each in self.passes if each.name not in names))

    def stressed(self, sigma: float | None) -> "Recipe":
        """The recipe on the network with its channel scales perturbed, for experiments; unchanged where None."""
        if sigma is None:
            return self
        place = 0
        while place < len(self.passes) and (self.passes[place].name == "fold" or self._surgery_follows(place)):
            place += 1
        return Recipe((*self.passes[:place], Stress(sigma), *self.passes[place:]))

    def _surgery_follows(self, place: int) -> bool:
        return any(isinstance(each, Surgery) for each in self.passes[place:])

    def with_passes(self, *more: Pass) -> "Recipe":
        """The recipe with passes that change what goes in and comes out, before all that is fitted to the network."""
        first = next((k for k, each in enumerate(self.passes) if each.name in _LAST), None)
        place = len(self.passes) if first is None else first
        # Without a name, it is called by its passes.
        name = " + ".join([self.name, *(each.name for each in more)]) if self.name else ""
        return Recipe((*self.passes[:place], *more, *self.passes[place:]), name)

    def __str__(self) -> str:
        return self.name or f"[{', '.join(map(str, self.passes))}]"


_ORDERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("clip_ranges", ("equalize",), "clip_ranges chooses ranges for the present channel scales, and {} changes these"),
    (
        "split_weights",
        ("equalize", "stress"),
        "split_weights clips for the present channel scales, and {} changes these",
    ),
    (
        "clip_ranges",
        ("pair", "thermometer"),
        "{} replaces the last convolution, which clip_ranges may have put a clip behind",
    ),
    (
        "split_weights",
        ("pair", "thermometer"),
        "{} replaces the last convolution, which split_weights may have made two",
    ),
)
"""A pass, those that must not stand behind it, and why."""

ROUNDING = ("adaround", "reconstruct_blocks", "bias_correct")
"""Passes that fit weights and biases to the grid."""

_LAST = ("clip_ranges", "split_weights", *ROUNDING)
"""Passes that are fitted to everything before them."""


NAIVE = Recipe((Fold(),), "naive")
"""The network as it is: the shipped recipe of that name."""


RecipeLike = str | Path | Recipe | Sequence[Any]
"""Whatever :func:`load_recipe` takes."""


def load_recipe(recipe: RecipeLike) -> Recipe:
    """A recipe from its name, its file, or its passes.

    Args:
        recipe: name of a shipped recipe; path of a YAML file with the key ``passes``; a list of passes as in such a
            file, also as YAML text (``[fold, {equalize: {max_iterations: 100}}]``); or a recipe.

    Raises:
        ConfigError: no such recipe, or one that is not valid; the message names the nearest name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | Path):
        return Recipe.from_entries(recipe)
    text = str(recipe)
    if text.lstrip().startswith("["):
        return Recipe.from_entries(parse_yaml(text, f"recipe {text:.200}"))
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        if text not in recipe_names():
            raise ConfigError(
                f"unknown recipe {text!r}; {did_you_mean(text, recipe_names())}, the path of a .yaml file, or a list "
                f"of passes ({', '.join(PASSES)})"
            )
        path = shipped_folder() / "recipe" / f"{text}.yaml"
    if not path.exists():
        raise ConfigError(f"recipe {path} does not exist; shipped are {', '.join(recipe_names())}")
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not {"passes"} <= content.keys() <= {"passes", "description"}:
        raise ConfigError(f"recipe {path}: expected the keys description and passes, received {content!r:.60}")
    try:
        return Recipe.from_entries(content["passes"], path.stem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes."""
    return tuple(shipped_names("recipe"))


def _pass_of(entry: Any, where: str) -> Pass:
    if isinstance(entry, Pass):
        return entry
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, arguments),) = entry.items()
    else:
        name, arguments = entry, {}
    if not isinstance(name, str) or name not in PASSES:
        raise ConfigError(f"{where}: there is no pass {name!r}; {did_you_mean(str(name), PASSES)}")
    try:
        return validated_from_mapping(PASSES[name], {} if arguments is None else arguments)
    except FieldError as error:
        raise ConfigError(f"{where} ({name}): {error}") from error
