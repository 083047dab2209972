"""Load a network's weights from a checkpoint."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depth_distill.codecs.description import describe_codec
from depth_distill.errors import ConfigError, one_line
from depth_distill.models.finite import first_non_finite_weight
from depth_distill.models.foreign_checkpoint import difference, read_content, read_tensors

CODEC = "codec"
"""Key of a checkpoint with the description of the codec."""
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


def read_checkpoint(checkpoint: Path, mmap: bool = False) -> Any:
    """The content of a file of ``torch.save``: tensors, numbers, strings and collections of them, and nothing else.

    Args:
        checkpoint: the file.
        mmap: whether tensors are read from the disk when they are used.

    Raises:
        ConfigError: the file does not exist, or cannot be read without running code of it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other protocols and archives that it refuses
            return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise ConfigError(f"{checkpoint} does not exist") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{checkpoint} is a folder, expected a checkpoint in it") from error
    except PermissionError as error:
        raise ConfigError(f"{checkpoint} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{checkpoint} cannot be read as a checkpoint: it is no file of torch.save, or holds objects of other "
            "classes, which are not unpickled"
        ) from error
    except Exception as error:  # torch raises whatever its zip reader does
        why = one_line(error).partition(". ")[0]
        raise ConfigError(f"{checkpoint} cannot be read as a checkpoint ({why}): is it truncated?") from error


def codec_description(network: nn.Module) -> dict[str, Any] | None:
    """What the codes of a network mean, for its checkpoint; None where that cannot be described."""
    try:
        return describe_codec(network.codec.host)  # type: ignore[union-attr, arg-type]
    except (AttributeError, ConfigError):
        return None


def require_same_codec(checkpoint: Path | str, recorded: Any, network: nn.Module, described_by: str) -> None:
    """Check that the codes of a checkpoint mean what those of a network do.

    Args:
        checkpoint: the file, for error messages.
        recorded: the description in the checkpoint; None in those of earlier versions.
        network: network that gets the weights.
        described_by: source of the network, for error messages.

    Raises:
        ConfigError: naming what differs.
    """
    own = codec_description(network)
    if not isinstance(recorded, Mapping) or own is None or recorded == own:
        return
    keys = [key for key in {**recorded, **own} if recorded.get(key) != own.get(key)]
    differences = ", ".join(f"{key} is {recorded.get(key)} there and {own.get(key)} here" for key in keys)
    raise ConfigError(
        f"{checkpoint} was trained with another codec than {described_by} gives ({differences}): use the config of its "
        "run"
    )


def require_finite(checkpoint: Path | str, network: nn.Module) -> None:
    """Check the weights that a network got from a checkpoint.

    Raises:
        ConfigError: naming the first that is not finite.
    """
    first = first_non_finite_weight(network)
    if first is not None:
        raise ConfigError(f"{checkpoint}: the weight {first} is not finite: give an earlier checkpoint")


def recorded_recipe(checkpoint: Path) -> list[Any] | None:
    """Entries of the recipe that a student was prepared with, as FakeQuant records them; None of any other checkpoint.

    Raises:
        ConfigError: a file that cannot be read.
    """
    content = read_content(checkpoint, mmap=True)
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
        ConfigError: see :func:`network_state`; or the checkpoint belongs to another network or codec, or holds weights
            that are not finite.
    """
    state = network_state(checkpoint, network)
    require_same_codec(checkpoint, _recorded_codec(checkpoint), network, described_by)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        wrong = difference(state, network)
        if wrong is not None:
            raise ConfigError(f"{checkpoint} is of another network than {described_by} describes: {wrong}") from error
        network.load_state_dict(state, strict=False)  # counters of batch norm are missing
    require_finite(checkpoint, network)


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


def _recorded_codec(checkpoint: Path) -> Any:
    """The description of the codec in a checkpoint of ``fit``; None of any other file."""
    content = read_content(checkpoint, mmap=True)
    return content.get(CODEC) if isinstance(content, dict) else None
