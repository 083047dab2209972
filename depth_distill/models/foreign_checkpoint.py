"""Checkpoints of networks that are not ours: which tensors a file holds, read without running any code of it."""

import copy
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from depth_distill.errors import ConfigError, one_line
from depth_distill.models.found_tensors import dictionaries_of_tensors, loaded, unknown_objects
from depth_distill.models.inert_pickle import UnreadableError
from depth_distill.models.stored_values import Storage
from depth_distill.models.torch_files import read_inert
from depth_distill.suggestions import did_you_mean

_WRAPPERS = ("module", "_orig_mod")  # of DataParallel and torch.compile: they rename, and mean nothing
_COUNTER = "num_batches_tracked"  # of batch norm; evaluation does not read it, and old files have none
_NAMED = 3  # keys in a message


@dataclass(frozen=True)
class ForeignState:
    """The tensors of a file.

    Attributes:
        path: the file.
        tensors: by the key that the file gives each.
        key: dotted path of the dictionary that they were found in; ``""`` is the root of the file.
        skipped: what else is in the file and was not read, e.g. ``"argparse.Namespace (hyper_parameters)"``.
        others: other dictionaries of tensors, e.g. ``"ema (62 tensors)"``; :func:`read_tensors` takes their ``key``.
    """

    path: Path
    tensors: dict[str, Tensor]
    key: str = ""
    skipped: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def read_tensors(path: Path, key: str | None = None) -> ForeignState:
    """Read the weights in a file of safetensors, ``torch.save``, Lightning, TorchScript or ``pickle``.

    No code in the file runs. torch's own weights-only reader comes first; where an object of an unknown class stands in
    its way, a reader of ours leaves that object out. Of a pickled module the parameters and buffers are taken.

    Args:
        path: the file.
        key: dictionary with the weights, e.g. ``ema`` or ``callbacks.EMA.weights``; the first of the usual places that
            has tensors if not given. A dictionary of dictionaries of tensors is read with dotted names.

    Raises:
        ConfigError: the file does not exist, cannot be read or has no tensors, or none under ``key``.
    """
    content = read_content(path)
    found = dict(dictionaries_of_tensors(content))
    if not found:
        raise ConfigError(f"{path} cannot be read as a checkpoint (it holds no tensors by name): is it truncated?")
    chosen = _chosen(path, found, key)
    others = tuple(f"{name or 'the root'} ({_count(tensors)})" for name, tensors in found.items() if name != chosen[0])
    storages: dict[Storage, Tensor] = {}
    try:
        tensors = {name: loaded(value, storages) for name, value in chosen[1].items()}
    except (UnreadableError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{path} cannot be read as a checkpoint ({error}): is it truncated?") from error
    return ForeignState(path, tensors, chosen[0], tuple(unknown_objects(content)), others)


@dataclass(frozen=True)
class Matched:
    """Tensors under the keys of a network.

    Attributes:
        tensors: every tensor that the network has, by its key there.
        prefix: what was stripped from the file's keys; ``""`` if nothing was.
        notes: what was done to the keys, one sentence each.
    """

    tensors: dict[str, Tensor]
    prefix: str = ""
    notes: tuple[str, ...] = ()

    def load_into(self, network: nn.Module) -> None:
        """Copy the tensors into the network that they were fitted to, in place."""
        network.load_state_dict(self.tensors, strict=False)  # only counters of batch norm may be missing


def fit_to(state: ForeignState, network: nn.Module, prefix: str | None = None) -> Matched:
    """Fit the keys of a file to those of a network, which is not changed.

    The keys are taken as they are if they fit, so a network with an attribute of its own that is called ``model`` keeps
    it. The wrappers ``module.`` (DataParallel) and ``_orig_mod.`` (``torch.compile``) are taken off where that makes
    them fit. Any other prefix is only proposed, because a file may hold several networks.

    Args:
        state: what :func:`read_tensors` read.
        network: the network that the weights are of.
        prefix: beginning of the keys of this network, e.g. ``model.depth_net.``; other keys are left.

    Raises:
        ConfigError: the keys or shapes do not fit; the message says which, and which prefix would.
    """
    if prefix:
        return _behind_prefix(state, network, prefix if prefix.endswith(".") else f"{prefix}.")
    for tensors, notes in ((state.tensors, ()), _unwrapped(state.tensors)):
        if difference(tensors, network) is None or _loads(tensors, network):
            return Matched(dict(tensors), "", notes)
    likely = _likely_prefixes(state.tensors, network)
    exact = [each for each, (_, is_exact) in likely.items() if is_exact]
    if exact:
        also = f" (so do those behind {', '.join(exact[1:4])})" if len(exact) > 1 else ""
        raise ConfigError(
            f"{state.path} fits the network only behind a prefix: every key fits behind prefix {exact[0]!r}{also}: "
            f"say prefix: {exact[0]}"
        )
    raise ConfigError(f"{state.path} is of another network: {difference(state.tensors, network)}")


def difference(tensors: Mapping[str, Tensor], network: nn.Module) -> str | None:
    """How the keys and shapes of weights differ from those of a network, in one line; None if they fit."""
    own = {name: each for name, each in network.state_dict().items() if isinstance(each, Tensor)}
    missing = [name for name in own if name not in tensors and not name.endswith(_COUNTER)]
    unexpected = [name for name in tensors if name not in own and not name.endswith(_COUNTER)]
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} in the file and {tuple(each.shape)} in the network"
        for name, each in own.items()
        if name in tensors and tensors[name].shape != each.shape
    ]
    if not missing and not unexpected and not shapes:
        return None
    parts = [f"{len(missing)} of {len(own)} keys are missing ({first_names(missing)})"] if missing else []
    parts += [f"{len(unexpected)} of {len(tensors)} are unexpected ({first_names(unexpected)})"] if unexpected else []
    parts += [f"{len(shapes)} have another shape ({first_names(shapes)})"] if shapes else []
    likely = _likely_prefixes(tensors, network)
    if likely:
        best, (count, _) = next(iter(likely.items()))
        if count > len(own) - len(missing) - len(shapes):
            parts.append(f"{count} of {len(own)} keys fit behind prefix {best!r}")
    return "; ".join(parts)


def first_names(names: list[str]) -> str:
    """The first three names, and dots for more."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _loads(tensors: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Whether the network itself takes these keys, as one does that renames those of older versions."""
    if not any(name in tensors for name in network.state_dict()):
        return False
    try:
        found = copy.deepcopy(network).load_state_dict(tensors, strict=False)
    except Exception:  # whatever the user's own hooks raise: the difference of the keys is reported
        return False
    return all(name.endswith(_COUNTER) for name in (*found.missing_keys, *found.unexpected_keys))


def _unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors without the names of wrappers in their keys, and notes about it; as they are if two became one."""
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in tensors}
    if len(set(names.values())) < len(names):
        return dict(tensors), ()
    notes = [
        f"the wrapper {wrapper!r} was taken off {count} keys"
        for wrapper in _WRAPPERS
        if (count := sum(wrapper in name.split(".") for name in names))
    ]
    return {new: tensors[name] for name, new in names.items()}, tuple(notes)


def _behind_prefix(state: ForeignState, network: nn.Module, prefix: str) -> Matched:
    tensors, notes = dict(state.tensors), tuple[str, ...]()
    if not any(name.startswith(prefix) for name in tensors):
        tensors, notes = _unwrapped(tensors)
    chosen = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    if not chosen:
        begins = dict.fromkeys(f"{name.split('.')[0]}." for name in state.tensors)
        raise ConfigError(f"{state.path} has no key behind prefix {prefix!r}: {did_you_mean(prefix, begins)}")
    if difference(chosen, network) is not None and not _loads(chosen, network):
        unwrapped, more = _unwrapped(chosen)
        if difference(unwrapped, network) is not None:
            wrong = difference(chosen, network)
            raise ConfigError(f"{state.path} is of another network behind prefix {prefix!r}: {wrong}")
        chosen, notes = unwrapped, (*notes, *more)
    left = [name for name in tensors if not name.startswith(prefix)]
    if left:
        parts = list(dict.fromkeys(f"{name.split('.')[0]}." for name in left))
        notes = (*notes, f"{len(left)} keys of other parts were left: {first_names(parts)}")
    return Matched(chosen, prefix, notes)


def _likely_prefixes(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, tuple[int, bool]]:
    """Prefixes behind which most keys of the network are, the best first: how many fit, and whether all do."""
    own = {name: each.shape for name, each in network.state_dict().items() if isinstance(each, Tensor)}
    fitting: dict[str, int] = {}
    strange: dict[str, int] = {}
    for name, each in tensors.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            prefix, rest = f"{'.'.join(parts[:depth])}.", ".".join(parts[depth:])
            if rest.endswith(_COUNTER):
                continue
            counts = fitting if own.get(rest) == each.shape else strange
            counts[prefix] = counts.get(prefix, 0) + 1
    wanted = sum(not name.endswith(_COUNTER) for name in own)
    found = {prefix: (count, count == wanted and not strange.get(prefix)) for prefix, count in fitting.items()}
    return dict(sorted(found.items(), key=lambda item: (-item[1][1], -item[1][0])))


def read_content(path: Path, mmap: bool = False) -> Any:
    """Everything in a checkpoint, without running code of it; objects of unknown classes stay descriptions.

    Args:
        path: the file.
        mmap: whether tensors are read from the disk when they are used, where the format allows it.

    Raises:
        ConfigError: the file does not exist or cannot be read.
    """
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except FileNotFoundError as error:
            raise ConfigError(f"{path} does not exist") from error
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path} cannot be read as safetensors ({error}): is it truncated?") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other protocols and archives that it refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder, expected a checkpoint in it") from error
    except Exception as reason:  # torch raises whatever its zip reader and unpickler do
        try:
            return read_inert(path)
        except (UnreadableError, OSError) as error:
            why = one_line(error if isinstance(reason, pickle.UnpicklingError) else reason, 200).partition(". ")[0]
            raise ConfigError(f"{path} cannot be read as a checkpoint ({why}): is it truncated?") from error


def _chosen(path: Path, found: dict[str, dict[str, Any]], key: str | None) -> tuple[str, dict[str, Any]]:
    if key is None:
        return next(iter(found.items()))
    if key in found:
        return key, found[key]
    below = f"{key}." if key else ""
    flat = {f"{name}.{each}"[len(below) :]: value for name, tensors in found.items() if name.startswith(below)
            for each, value in tensors.items()}  # fmt: skip
    if not flat:
        raise ConfigError(f"{path} has no tensors under the key {key!r}: {did_you_mean(key, found)}")
    return key, flat


def _count(tensors: Mapping[str, Any]) -> str:
    return f"{len(tensors)} tensor{'s' if len(tensors) != 1 else ''}"
