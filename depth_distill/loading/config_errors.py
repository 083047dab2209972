"""Shorten jsonargparse's error messages to the key, what is wrong with it, and the fix."""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from depth_distill.errors import one_line
from depth_distill.suggestions import did_you_mean

# Lines that only repeat the types, errors or value of the alternatives of a key.
_NOISE = re.compile(
    r"Does not validate against|Subtypes: |Errors:|Expected a <class 'NoneType'>|Expected a path but|Given value type"
    r"|Given value: (Namespace|NestedArg|[{\[])|Subclass types expect one of:|a class path \(str\)|a dict with(out)? "
)
_KEY = re.compile(r'Parser key "(?P<key>.+?)": ?')
_CLASS = re.compile(r"Problem with given class_path '(?P<path>.+?)': ?")
_FACTORY = re.compile(r"Type (?:collections\.abc|typing)\.Callable.*? expects a function or a callable class: ?")
_GOT_CLASS = re.compile(r"\. Got value: Namespace\(class_path='(?P<path>[\w.]+)'.*")


class _ErrorLeaf(NamedTuple):
    key: str
    class_path: str
    statement: str


def explain(message: str, options: Iterable[str] = (), files: Iterable[Path] = ()) -> str:
    """A jsonargparse error message as one line, with the nearest valid choice for an unknown name.

    Args:
        message: jsonargparse's message, a tree of alternatives on many lines.
        options: names of the command-line options, without the leading dashes.
        files: configs that were read.
    """
    if message.startswith("Problems parsing config"):
        return f"{', '.join(map(str, files))}: not valid YAML: {one_line(message.split(':', 1)[-1])}"
    names = sorted(set(options))
    bases = re.findall(r"<class '((?:depth_distill|torch)\.[\w.]+)'>", message)
    statements: dict[str, None] = {}  # an ordered set
    for leaf in _leaves(message):
        statement = _statement(leaf, bases, names)
        if any(f"'{statement.removeprefix('got ')}'" in earlier for earlier in statements):
            continue
        statements[f"{leaf.key}: {statement}" if leaf.key else statement] = None
    return "; ".join(statements) or message.strip()


def explain_interpolation(error: Exception, files: Iterable[Path] = ()) -> str:
    """An error of OmegaConf about a ``${...}`` as one line.

    Args:
        error: an error of OmegaConf, or the RecursionError of values that refer to each other.
        files: configs that were read.
    """
    where = ", ".join(map(str, files))
    statement, *details = str(error).strip().splitlines() or [""]
    if isinstance(error, RecursionError) or "RecursionError" in statement or "recursion" in statement.lower():
        statement = "a ${...} refers to itself"
    if re.search(r"input|token recognition", statement):
        statement = "this ${...} cannot be read"
    key = next((line.split(":", 1)[1].strip() for line in details if line.strip().startswith("full_key:")), "")
    parts = [part for part in (where, re.sub(r"^(fit|validate|test|predict)\.", "", key)) if part]
    found = ": ".join([*parts, statement.rstrip(".")])
    return f"{found}; expected ${{KEY}} with a key of the config, such as ${{data.root}}"


def _leaves(message: str) -> Iterator[_ErrorLeaf]:
    """The leaves of the message's tree, which its indentation defines."""
    keys: list[tuple[int, str]] = []
    class_path = ""
    for line in filter(str.strip, message.splitlines()):
        text = line.lstrip(" -")
        indent = len(line) - len(text)
        keys = [(depth, key) for depth, key in keys if depth < indent]
        while match := _KEY.match(text) or _CLASS.match(text) or _FACTORY.match(text):
            keys.append((indent, match["key"] if match.re is _KEY else "init_args"))
            class_path = match["path"] if match.re is _CLASS else class_path
            text = text[match.end() :]
        if got := _GOT_CLASS.search(text):
            class_path, text = got["path"], text[: got.start()]
        if text and not _NOISE.match(text):
            yield _ErrorLeaf(".".join(key for _, key in keys), class_path, text)


def _statement(leaf: _ErrorLeaf, bases: Sequence[str], options: Sequence[str]) -> str:
    """A leaf as one short statement."""
    key, class_path, text = leaf
    class_name = class_path.rsplit(".")[-1]
    if match := re.match(r"Option '(.+)' is not accepted", text):
        return f"{class_name} has no option '{match[1]}'; {did_you_mean(match[1], _parameters(class_path))}"
    if match := re.match(r"Expected a dot import path string: (.+)", text):
        return f"no class '{match[1]}'; {did_you_mean(match[1], _subclasses(bases))} (or give a full import path)"
    if match := re.match(r"the following arguments are required: (.+)", text):
        if not key:
            return f"{match[1].split('.')[-1]} is missing; name a config with --config FILE"
        cure = "give --data.root FOLDER, which the shipped configs take it from" if match[1] == "root" else "set it"
        return f"{class_name} needs '{match[1]}', which is not set; {cure}"
    if match := re.search(r"(?:does not accept option|unrecognized arguments:) '?(?:--)?([\w.]+)", text):
        if match[1].rpartition(".")[2] == "compile":
            return f"there is no option '{match[1]}': quantizers and hooks change networks in training"
        return f"there is no option '{match[1]}'; {did_you_mean(match[1], options)}"
    if match := re.match(r"Not a valid subclass of (\w+)", text):
        return f"expected the class_path and the init_args of a {match[1]}"
    if re.match(r"argument of type '\w+' is not", text):
        return "expected the name of a class as class_path"
    text = re.sub(r"Expected a <class '(?:\w+\.)*(\w+)'>", r"expected \1", text)
    text = re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1", text)
    return re.sub(r"\. Got value: (.*)", r", got '\1'", text).replace("Given value: ", "got ")


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError):
        return []


def _subclasses(bases: Sequence[str]) -> list[str]:
    """Names of this package's concrete subclasses of the base classes."""
    names: set[str] = set()
    for base in bases:
        module, _, name = base.rpartition(".")
        waiting = [getattr(import_module(module), name)]
        while waiting:
            kind = waiting.pop()
            waiting += kind.__subclasses__()
            if not inspect.isabstract(kind) and kind.__module__.startswith("depth_distill."):
                names.add(kind.__name__)
    return sorted(names)
