"""What becomes of a single code at the end of a network, by the name that ``--head`` gives it."""

from depth_distill.errors import ConfigError
from depth_distill.quantization.passes.base import Pass
from depth_distill.quantization.passes.pair import Pair
from depth_distill.quantization.passes.thermometer import Thermometer
from depth_distill.quantization.recipe import Recipe

SINGLE = "single"
HEADS = (SINGLE, Pair.name, f"{Thermometer.name}:N")
"""What :func:`head_pass` takes; N is 2, 4, 8 or 16, and 8 unless given."""


def head_pass(head: str) -> Pass | None:
    """The pass that makes a head of a single code; None for ``single``.

    Args:
        head: ``single``, ``pair``, ``thermometer`` or ``thermometer:N``.

    Raises:
        ConfigError: there is no such head, or no thermometer of so many codes.
    """
    name, colon, number = head.partition(":")
    if head == SINGLE:
        return None
    if head == Pair.name:
        return Pair()
    if name == Thermometer.name and (number.isascii() and number.isdigit() if colon else True):
        return Thermometer(int(number)) if colon else Thermometer()  # type: ignore[arg-type]
    raise ConfigError(f"there is no head {head!r}; expected one of {', '.join(HEADS)}")


def with_head(recipe: Recipe, head: str | None) -> Recipe:
    """A recipe behind which a network has this head; unchanged where ``head`` is None.

    Args:
        recipe: recipe without a pass that converts the head, or with the very one.
        head: see :func:`head_pass`.

    Raises:
        ConfigError: the recipe converts the head to another, or has a pass that does not go with this one.
    """
    if head is None:
        return recipe
    wanted = head_pass(head)
    given = [each for each in recipe.passes if isinstance(each, Pair | Thermometer)]
    if any(each != wanted for each in given):
        raise ConfigError(f"recipe {recipe} has the pass {given[0]}, but the head {head} is requested: choose one")
    return recipe if wanted is None or given else recipe.with_passes(wanted)
