"""Load a network's weights from a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError

_PREFIX = "network."  # attribute of a task that holds its network


def network_state(checkpoint: Path) -> dict[str, Tensor]:
    """The network's state dict from a run's checkpoint or a plain state dict; loaded with ``weights_only=True``.

    Raises:
        ConfigError: the file does not exist, cannot be read, or holds no weights.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = content.get("state_dict", content)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it holds no state_dict")
    except FileNotFoundError as error:
        raise ConfigError(f"{checkpoint} does not exist") from error
    except Exception as error:  # torch raises whatever its zip reader and unpickler do
        raise ConfigError(f"{checkpoint} cannot be read as a checkpoint ({error}): is it truncated?") from error
    if not any(key.startswith(_PREFIX) for key in state):
        return dict(state)
    return {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}


def recorded_recipe(checkpoint: Path) -> list[Any] | None:
    """Entries of the recipe that a student was prepared with, as FakeQuant records them; None of any other checkpoint.

    Raises:
        ConfigError: a file that cannot be read.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{checkpoint} does not exist") from error
    except Exception as error:  # torch raises whatever its zip reader and unpickler do
        raise ConfigError(f"{checkpoint} cannot be read as a checkpoint ({error}): is it truncated?") from error
    states = content.get("callbacks", {}) if isinstance(content, dict) else {}
    recipe = states.get("FakeQuant", {}).get("recipe") if isinstance(states, dict) else None
    return None if recipe is None else list(recipe["passes"])


def load_weights(network: nn.Module, checkpoint: Path, described_by: str = "the config") -> None:
    """Load all weights of a network from a checkpoint, in place.

    Args:
        network: network with the architecture of the checkpoint.
        checkpoint: checkpoint from ``fit``, or a plain state dict.
        described_by: source of the architecture, for the error message.

    Raises:
        ConfigError: see :func:`network_state`, or the checkpoint belongs to another network.
    """
    state = network_state(checkpoint)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        difference = _first_difference(error)
        raise ConfigError(f"{checkpoint} is of another network than {described_by} describes: {difference}") from error


def load_encoder_decoder(network: nn.Module, checkpoint: Path) -> None:
    """Load a network's encoder and decoder from a checkpoint, in place; the head is unchanged.

    This initializes a network with a new head from one that was trained with another.

    Args:
        network: a :class:`~depth_distill.models.DepthNet` with the same encoder and decoder as the checkpoint.
        checkpoint: checkpoint from ``fit``.

    Raises:
        ConfigError: the file does not exist, cannot be read, or has another encoder or decoder.
    """
    state = network_state(checkpoint)
    for part in ("encoder", "decoder"):
        weights = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        try:
            network.get_submodule(part).load_state_dict(weights)
        except RuntimeError as error:
            raise ConfigError(
                f"{checkpoint} has another {part} than this network: {_first_difference(error)}"
            ) from error


def _first_difference(error: RuntimeError) -> str:
    """The first mismatch in an error of ``load_state_dict``."""
    lines = str(error).splitlines()
    return lines[1].strip() if len(lines) > 1 else str(error)
