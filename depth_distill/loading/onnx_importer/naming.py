"""Names of ONNX nodes as paths of modules."""

import keyword
import re
from collections.abc import Iterable

from torch import fx, nn

from depth_distill.loading.onnx_importer.files import free_name
from depth_distill.loading.onnx_importer.nodes import Node

_TAKEN = {*dir(nn.Module()), *dir(fx.GraphModule(nn.Module(), fx.Graph()))}


class ModulePaths:
    """Gives every node a path that no other module has, and that is not the folder of another module.

    ``/encoder/layer1/layer1.0/conv1/Conv`` and ``encoder.layer1.0.conv1`` become ``encoder.layer1.0.conv1``; a node
    without a path in its name is named after its operator: ``conv``, ``conv_1``.

    Args:
        nodes: every node of the file, whose paths must not collide.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._folders = {folder for node in nodes for folder in _folders(wanted_path(node))}
        self._paths: set[str] = set()
        self._taken = set(self._folders)

    def take(self, node: Node, wanted: str | None = None) -> str:
        """A free path for a module that ``node`` becomes; ``wanted`` instead of the path in its name."""
        wanted = wanted_path(node) if wanted is None else wanted
        if wanted in self._folders:
            wanted = f"{wanted}.{_operator(node)}"
        parts = wanted.split(".")
        for end in range(1, len(parts)):  # a module is not a folder
            while ".".join(parts[:end]) in self._paths:
                parts[end - 1] += "_"
        path = free_name(".".join(parts), self._taken)
        self._paths.add(path)
        self._folders.update(_folders(path))
        self._taken.update((path, *_folders(path)))
        return path


def wanted_path(node: Node) -> str:
    """The path in a node's name, or its operator where the name has none."""
    modules = [scope for scope in node.scopes[:-1] if scope]
    if modules:
        return _valid(modules[-1])
    parts: list[str] = []
    for part in node.name.strip("/").split("/"):
        if parts and part.startswith(f"{parts[-1]}."):  # TorchScript: layer1/layer1.0
            parts.pop()
        parts.append(part)
    if len(parts) > 1 and re.fullmatch(rf"{re.escape(node.operator)}(_\d+)?", parts[-1]):
        parts.pop()  # TorchScript: conv1/Conv
    path = ".".join(parts)
    return _valid(path) if "." in path or len(parts) < len(node.name.strip("/").split("/")) else _operator(node)


def scope_of(node: Node) -> str:
    """Path of the module around a function, or an empty string."""
    modules = [scope for scope in node.scopes[:-1] if scope]
    if modules:
        return _valid(modules[-1])
    path = wanted_path(node)
    if "/" in node.name and node.name.strip("/").split("/")[-1].startswith(node.operator):
        return path if path != _operator(node) else ""
    return path.rpartition(".")[0]


def argument_name(name: str) -> str:
    """The name of an input as that of an argument in Python."""
    valid = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"input_{valid}" if not valid.isidentifier() or keyword.iskeyword(valid) else valid


def _operator(node: Node) -> str:
    return _valid(node.operator.rpartition(".")[2].lower())


def _folders(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _valid(path: str) -> str:
    """The path with characters that a name in Python may have; attributes that every module has are not hidden."""
    parts = [re.sub(r"\W", "_", part, flags=re.ASCII) for part in path.split(".") if part]
    return ".".join(f"{part}_" if part in _TAKEN else part for part in parts) or "node"
