"""Where the tensors are in what a checkpoint holds, and what else there is."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from depth_distill.models.inert_pickle import Inert, Name
from depth_distill.models.stored_values import Storage, StoredArray, StoredTensor

# Where people put the weights of a network, the first of which wins; averages come behind what was averaged.
_PLACES = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "student", "params",
    "weights", "generator", "teacher", "state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema",
    "params_ema",
)  # fmt: skip
_NOT_WEIGHTS = ("optim", "lr_sched", "sched", "scaler", "loops", "amp", "rng", "random")  # beginnings of keys
_DEEPEST = 5  # levels of dictionaries that are searched
_MOST_NAMED = 8


def dictionaries_of_tensors(content: Any) -> list[tuple[str, dict[str, Any]]]:
    """Dictionaries of tensors by their dotted path, the most likely first."""
    found = list(_search(content, "", 0, set()))

    def rank(item: tuple[str, dict[str, Any]]) -> tuple[int, int]:
        path, tensors = item
        place = path.split(".", 1)[0]
        if not path:  # a state dict with other keys beside it, or a stray number beside a state dict
            return (-1 if any("." in name for name in tensors) or len(found) == 1 else len(_PLACES) + 1, 0)
        return (_PLACES.index(place) if place in _PLACES else len(_PLACES), path.count("."))

    return sorted(found, key=rank)


def loaded(value: Any, storages: dict[Storage, Tensor]) -> Tensor:
    """A tensor that was found, with its values; ``storages`` keeps those that were read.

    Raises:
        UnreadableError: the file has fewer values than the tensor.
    """
    tensor = value.load(storages) if isinstance(value, StoredTensor) else value
    tensor = tensor.value if isinstance(tensor, StoredArray) else tensor
    assert isinstance(tensor, Tensor)
    return tensor.detach()


def unknown_objects(content: Any) -> list[str]:
    """Objects of unknown classes, each with the first key that it was found behind."""
    names: dict[str, None] = {}
    for kind, path in _unknown(content, "", set(), 0):
        names.setdefault(f"{kind} ({path})" if path else kind)
    listed = list(names)
    more = [f"and {len(listed) - _MOST_NAMED} more"] if len(listed) > _MOST_NAMED else []
    return listed[:_MOST_NAMED] + more


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | StoredTensor) or (isinstance(value, StoredArray) and value.value is not None)


def _search(value: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    if id(value) in seen or depth > _DEEPEST:
        return
    seen.add(id(value))
    of_module = _of_module(value)
    if of_module is not None:
        if of_module:
            yield path, of_module
        return
    entries = _entries(value)
    tensors = {name: each for name, each in entries.items() if _is_tensor(each)}
    if tensors:
        yield path, tensors
    for name, each in entries.items():
        if not name.lower().startswith(_NOT_WEIGHTS):
            yield from _search(each, f"{path}.{name}" if path else name, depth + 1, seen)


def _entries(value: Any) -> dict[str, Any]:
    """The entries of a dictionary, or of an object of a class that is a dictionary, whose keys are text."""
    entries = value.items if isinstance(value, Inert) else value
    return {name: each for name, each in entries.items() if type(name) is str} if isinstance(entries, Mapping) else {}


def _of_module(value: Any, prefix: str = "", seen: frozenset[int] = frozenset()) -> dict[str, Any] | None:
    """The state dict of a pickled ``nn.Module`` or of a TorchScript archive; None of anything else."""
    state = value.state if isinstance(value, Inert) else None
    if not isinstance(value, Inert) or not isinstance(state, Mapping) or id(value) in seen or len(seen) > 200:
        return None
    if isinstance(state.get("_modules"), Mapping):
        own = {**_mapping(state.get("_parameters")), **_mapping(state.get("_buffers"))}
        hidden = state.get("_non_persistent_buffers_set")
        own = {name: each for name, each in own.items() if not (isinstance(hidden, set) and name in hidden)}
        parts = _mapping(state["_modules"])
    elif value.kind.startswith("__torch__."):  # attributes, whatever they are
        own = parts = _mapping(state)
    else:
        return None
    tensors = {f"{prefix}{name}": each for name, each in own.items() if _is_tensor(each)}
    for name, part in parts.items():
        tensors |= _of_module(part, f"{prefix}{name}.", seen | {id(value)}) or {}
    return tensors


def _mapping(value: Any) -> dict[str, Any]:
    return {str(name): each for name, each in value.items()} if isinstance(value, Mapping) else {}


def _unknown(value: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, str]]:
    if id(value) in seen or depth > 50:
        return
    seen.add(id(value))
    if isinstance(value, Inert):
        if _of_module(value) is None:
            yield value.kind, path
    elif isinstance(value, Name):
        yield str(value), path
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if isinstance(name, Inert):
                yield from _unknown(name, path, seen, depth + 1)
            text = name.kind if isinstance(name, Inert) else str(name)
            yield from _unknown(each, f"{path}.{text}" if path else text, seen, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _unknown(each, path, seen, depth + 1)
