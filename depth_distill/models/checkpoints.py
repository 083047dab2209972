"""Weights of a network out of a checkpoint of a run."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError

_PREFIX = "network."  # what a task calls its network


def network_state(checkpoint: Path) -> dict[str, Tensor]:
    """The state dict of the network that a run trained, or a plain one; read with ``weights_only=True``.

    Raises:
        ConfigError: no such file, or one that cannot be read or holds no weights.
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
        network: of the same architecture.
        checkpoint: of a ``fit``, or a plain state dict.
        described_by: where the architecture comes from, for the error message.

    Raises:
        ConfigError: see :func:`network_state`, or a checkpoint of another network.
    """
    state = network_state(checkpoint)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        difference = first_difference(error)
        raise ConfigError(f"{checkpoint} is of another network than {described_by} describes: {difference}") from error


def load_encoder_decoder(network: nn.Module, checkpoint: Path) -> None:
    """Give a network the encoder and decoder of a checkpoint, in place; its head stays as it is.

    So a network with a new head starts from one that was trained with another.

    Args:
        network: a :class:`~depth_distill.models.DepthNet` with the encoder and decoder of the checkpoint's.
        checkpoint: of a ``fit``.

    Raises:
        ConfigError: no such file, one that cannot be read, or one of another encoder or decoder.
    """
    state = network_state(checkpoint)
    for part in ("encoder", "decoder"):
        weights = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        try:
            network.get_submodule(part).load_state_dict(weights)
        except RuntimeError as error:
            raise ConfigError(
                f"{checkpoint} has another {part} than this network: {first_difference(error)}"
            ) from error


def first_difference(error: RuntimeError) -> str:
    """The first line of what ``load_state_dict`` complains about."""
    lines = str(error).splitlines()
    return lines[1].strip() if len(lines) > 1 else str(error)
