"""The network as the user has it: what an imported one is compared with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depth_distill.errors import ConfigError
from depth_distill.loading.imported import build_module, load_foreign_weights
from depth_distill.loading.meaning import steps_of
from depth_distill.loading.to_codes import as_maps


class OriginalNetwork(nn.Module):
    """A module as the user has it: one of its methods, and of what that returns the outputs that are wanted.

    Args:
        module: the module.
        method: method that is called with an image.
        paths: steps to each output.
        together: whether several outputs are concatenated over channels; otherwise they are a tuple.
    """

    def __init__(self, module: nn.Module, method: str, paths: Sequence[Sequence[Any]], together: bool = True) -> None:
        super().__init__()
        self.together = together
        self.module = module
        self.method = method
        self.paths = [steps_of(path) for path in paths]

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The only output, or all of them."""
        returned = getattr(self.module, self.method)(image)
        found = [_at(returned, path) for path in self.paths]
        if len(found) == 1:
            return found[0]
        return torch.cat(found, dim=1) if self.together else tuple(found)


def original_network(arguments: dict[str, Any]) -> tuple[OriginalNetwork, list[str]]:
    """The module that the arguments of an ``ImportedNetwork`` describe, and notes on its weights.

    Args:
        arguments: its ``init_args``, as plain data with all defaults.

    Raises:
        ConfigError: see :func:`build_module` and :func:`load_foreign_weights`.
    """
    code, weights = arguments["code"], arguments["weights"]
    module, notes = build_module(arguments["module"], None if code is None else Path(code)), []
    if weights is not None:
        notes = load_foreign_weights(module, Path(weights), arguments["weights_key"], arguments["prefix"])
    paths = arguments["outputs"] if arguments["outputs"] is not None else [arguments["output"] or []]
    together = arguments["meaning"]["returns"] != "unknown"
    return OriginalNetwork(module, arguments["method"], paths, together).eval(), notes


def original_outputs(original: OriginalNetwork, arguments: dict[str, Any], images: Sequence[Tensor]) -> list[Tensor]:
    """What it returns, by batch: maps ``(B, C, H, W)`` of the images' size, or all outputs as ``(B, N)``.

    Args:
        original: network from :func:`original_network`.
        arguments: the arguments that it was made from.
        images: batches of normalized RGB images ``(B, 3, H, W)``.
    """
    is_bgr = arguments["input"]["colour_order"] == "BGR"
    with torch.inference_mode():
        returned = [original(each.flip(1) if is_bgr else each) for each in images]
    if not original.together:
        return [flat(each) for each in returned]
    return [as_maps(raw, each.shape[-2:], arguments["resize"]) for raw, each in zip(returned, images, strict=True)]


def deviation(wanted: Sequence[Tensor], network: nn.Module, images: Sequence[Tensor]) -> float:
    """Largest difference of a network's outputs from what is wanted, relative to the largest of these.

    Args:
        wanted: outputs by batch.
        network: network that returns one tensor or several.
        images: batches of images.
    """
    with torch.inference_mode():
        pairs = [(flat(one), flat(network(each))) for one, each in zip(wanted, images, strict=True)]
    largest = max(float(one.abs().max()) for one, _ in pairs)
    return max(float((one - other).abs().max()) for one, other in pairs) / max(largest, 1e-30)


def flat(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """Any outputs of a network as one ``(B, N)``."""
    each = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return torch.cat([values.flatten(1).float() for values in each], dim=1)


def _at(value: Any, path: Sequence[Any]) -> Tensor:
    for step in path:
        try:
            value = getattr(value, step) if isinstance(step, str) and hasattr(value, step) else value[step]
        except (KeyError, IndexError, TypeError) as error:
            keys = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise ConfigError(f"output: step {step!r} leads nowhere; there is {keys}") from error
    if not isinstance(value, Tensor):
        raise ConfigError(f"output: leads to a {type(value).__name__}, expected a tensor: give a longer path")
    return value
