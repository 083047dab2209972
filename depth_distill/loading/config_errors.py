"""What jsonargparse says about a config or a command line, made short: the key, what is wrong there, and the cure."""

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from depth_distill.data.reading import did_you_mean

# A class among the alternatives of a key, of which jsonargparse repeats types, errors and the whole value.
_NOISE = re.compile(
    r"Does not validate against|Subtypes: |Errors:|Expected a <class 'NoneType'>|Expected a path but|Given value type"
    r"|Given value: (Namespace|NestedArg|[{\[])"
)
_KEY = re.compile(r'Parser key "(?P<key>.+?)": ?')
_CLASS = re.compile(r"Problem with given class_path '(?P<path>.+?)': ?")
_FACTORY = re.compile(r"Type collections\.abc\.Callable.*? expects a function or a callable class: ?")
_GOT_CLASS = re.compile(r"\. Got value: Namespace\(class_path='(?P<path>[\w.]+)'.*")


class _Finding(NamedTuple):
    key: str
    class_path: str
    statement: str


def explain(message: str, options: Iterable[str] = (), files: Iterable[Path] = ()) -> str:
    """The message of a jsonargparse error in one line, with the nearest valid choice where a name is unknown.

    Args:
        message: as jsonargparse puts it, a tree of alternatives on many lines.
        options: names that the command line accepts, without the leading dashes.
        files: configs that were read.
    """
    if message.startswith("Problems parsing config"):
        return f"{', '.join(map(str, files))}: not valid YAML: {' '.join(message.split(':', 1)[-1].split())}"
    names = sorted(set(options))
    bases = re.findall(r"<class '(depth_distill\.[\w.]+)'>", message)
    said: dict[str, None] = {}  # an ordered set
    for finding in _findings(message):
        statement = _statement(finding, bases, names)
        if any(f"'{statement.removeprefix('got ')}'" in earlier for earlier in said):
            continue
        said[f"{finding.key}: {statement}" if finding.key else statement] = None
    return "; ".join(said) or message.strip()


def _findings(message: str) -> Iterator[_Finding]:
    """Walk the tree by its indentation, and keep the leaves."""
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
            yield _Finding(".".join(key for _, key in keys), class_path, text)


def _statement(finding: _Finding, bases: Sequence[str], options: Sequence[str]) -> str:
    """A leaf in the words of this package."""
    key, class_path, text = finding
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
        nearest = difflib.get_close_matches(match[1], options, n=1)
        cure = f"did you mean '{nearest[0]}'?" if nearest else "--help lists all"
        return f"there is no option '{match[1]}'; {cure}"
    text = re.sub(r"Expected a <class '(?:\w+\.)*(\w+)'>", r"expected \1", text)
    text = re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1", text)
    return re.sub(r"\. Got value: (.*)", r", got '\1'", text).replace("Given value: ", "got ")


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError):
        return []


def _subclasses(bases: Sequence[str]) -> set[str]:
    """Names of what this package has to offer in the place of the base classes."""
    names: set[str] = set()
    for base in bases:
        module, _, name = base.rpartition(".")
        waiting = [getattr(import_module(module), name)]
        while waiting:
            kind = waiting.pop()
            waiting += kind.__subclasses__()
            if not inspect.isabstract(kind) and kind.__module__.startswith("depth_distill."):
                names.add(kind.__name__)
    return names
