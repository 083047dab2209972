"""Weights from the checkpoint of a run into a network."""

from pathlib import Path

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError

_PREFIX = "network."


def load_weights(network: nn.Module, checkpoint: Path, described_by: str = "the config") -> None:
    """Load the network of a Lightning checkpoint, or a plain state dict, in place.

    Args:
        network: of the same architecture.
        checkpoint: read with ``weights_only=True``.
        described_by: where the architecture comes from, for the error message.

    Raises:
        ConfigError: no such file, one that cannot be read as a checkpoint, or one of another network.
    """
    state = _read(checkpoint)
    if any(key.startswith(_PREFIX) for key in state):
        state = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ConfigError(f"{checkpoint} is of another network than {described_by} describes: {first}") from error


def _read(checkpoint: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = content.get("state_dict", content)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it holds no state_dict")
        return {str(key): value for key, value in state.items()}
    except FileNotFoundError as error:
        raise ConfigError(f"{checkpoint} does not exist") from error
    except Exception as error:  # torch raises whatever its zip reader and unpickler do
        raise ConfigError(f"{checkpoint} cannot be read as a checkpoint ({error}): is it truncated?") from error
