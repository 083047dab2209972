"""Load a network's weights from a checkpoint."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from depth_distill.errors import ConfigError
from depth_distill.models.foreign_checkpoint import difference, read_content, read_tensors

_PREFIX = "network."  # attribute of a task that holds its network


def network_state(checkpoint: Path, network: nn.Module) -> dict[str, Tensor]:
    """A network's state dict from a run's checkpoint or a plain state dict, read without running code of the file.

    The prefix ``network.`` of a task is stripped, unless the network has an attribute of that name itself and the keys
    fit as they are.

    Raises:
        ConfigError: the file does not exist, cannot be read, or holds no weights.
    """
    state = read_tensors(checkpoint).tensors
    own = network.state_dict()
    behind = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    if not behind or sum(key in own for key in state) > sum(key in own for key in behind):
        return state
    return behind


def recorded_recipe(checkpoint: Path) -> list[Any] | None:
    """Entries of the recipe that a student was prepared with, as FakeQuant records them; None of any other checkpoint.

    Raises:
        ConfigError: a file that cannot be read.
    """
    content = read_content(checkpoint)
    states = content.get("callbacks", {}) if isinstance(content, dict) else {}
    own = states.get("FakeQuant") if isinstance(states, dict) else None
    recipe = own.get("recipe") if isinstance(own, dict) else None
    return list(recipe["passes"]) if isinstance(recipe, dict) and isinstance(recipe.get("passes"), list) else None


def load_weights(network: nn.Module, checkpoint: Path, described_by: str = "the config") -> None:
    """Load all weights of a network from a checkpoint, in place.

    Args:
        network: network with the architecture of the checkpoint.
        checkpoint: checkpoint from ``fit``, or a plain state dict.
        described_by: source of the architecture, for the error message.

    Raises:
        ConfigError: see :func:`network_state`, or the checkpoint belongs to another network.
    """
    state = network_state(checkpoint, network)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        wrong = difference(state, network)
        if wrong is not None:
            raise ConfigError(f"{checkpoint} is of another network than {described_by} describes: {wrong}") from error
        network.load_state_dict(state, strict=False)  # counters of batch norm are missing


def load_encoder_decoder(network: nn.Module, checkpoint: Path) -> None:
    """Load a network's encoder and decoder from a checkpoint, in place; the head is unchanged.

    This initializes a network with a new head from one that was trained with another.

    Args:
        network: a :class:`~depth_distill.models.DepthNet` with the same encoder and decoder as the checkpoint.
        checkpoint: checkpoint from ``fit``.

    Raises:
        ConfigError: the file does not exist, cannot be read, or has another encoder or decoder.
    """
    state = network_state(checkpoint, network)
    for part in ("encoder", "decoder"):
        weights = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        wrong = difference(weights, network.get_submodule(part))
        if wrong is not None:
            raise ConfigError(f"{checkpoint} has another {part} than this network: {wrong}")
        network.get_submodule(part).load_state_dict(weights, strict=False)  # counters of batch norm may be missing
