"""YAML that people write, read so that neither a slip nor a hostile file does harm."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from depth_distill.errors import ConfigError, one_line

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_BYTES = 16_000_000
_MOST_VALUES = 200_000  # with what aliases repeat; a recorded recipe of a large network has some thousand
_DEEPEST = 100
_LONGEST_NUMBER = 1_000  # digits; Python refuses to read numbers of more than 4300
_MERGE = "<<"


class UnsafeYamlError(yaml.YAMLError):
    """YAML that can be parsed, but means nothing good: a key given twice, or more values than any config has."""


@dataclass
class _Collection:
    """A mapping or sequence that is being read."""

    anchor: str | None
    keys: dict[str, int] | None
    size: int = 1
    children: int = 0


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: it does not exist, is no text in UTF-8, or no YAML, or :func:`check_yaml` refuses it.
    """
    return parse_yaml(read_yaml_text(path), path)


def parse_yaml(text: str, what: object) -> Any:
    """The content of a text in YAML.

    Args:
        text: the text.
        what: where it comes from, for messages.

    Raises:
        ConfigError: it is no YAML, or :func:`check_yaml` refuses it.
    """
    try:
        check_yaml(text)
        return yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what}: not valid YAML: {one_line(error)}") from error


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file.

    Raises:
        ConfigError: it does not exist, cannot be read, is too large, or is no text in UTF-8.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; expected a YAML file in it")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"{path} is larger than {_MOST_BYTES // 1_000_000} MB: is it a YAML file?")
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; give the path of a YAML file") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: it is no text in UTF-8; save it as UTF-8, if it is text") from error
    return text


def check_yaml(text: str) -> None:
    """Refuse YAML that a loader takes without a word, or chokes on.

    The text is read as a stream of events, so that nothing is expanded.

    Raises:
        UnsafeYamlError: a key is given twice in one mapping; an alias contains itself; aliases repeat more than
            200,000 values; brackets are nested more than 100 deep; or a number has more than 1,000 digits.
        yaml.YAMLError: the text is not YAML.
    """
    sizes: dict[str, int] = {}
    around: list[_Collection] = []
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.CollectionStartEvent):
            if len(around) == _DEEPEST:
                raise UnsafeYamlError(f"line {line}: nested more than {_DEEPEST} deep")
            around.append(_Collection(event.anchor, {} if isinstance(event, yaml.MappingStartEvent) else None))
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            size, anchor = around[-1].size, around.pop().anchor
            key = None
        elif isinstance(event, yaml.ScalarEvent):
            size, anchor, key = 1, event.anchor, event.value
            if event.implicit[0] and re.fullmatch(rf"[-+]?[\d_]{{{_LONGEST_NUMBER},}}", event.value):
                raise UnsafeYamlError(f"line {line}: a number of {len(event.value)} digits")
        elif isinstance(event, yaml.AliasEvent):
            if any(each.anchor == event.anchor for each in around):
                raise UnsafeYamlError(f"line {line}: *{event.anchor} contains itself")
            size, anchor, key = sizes.get(event.anchor, 1), None, None
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if around:
            _add(around[-1], key, size, line)


def _add(collection: _Collection, key: str | None, size: int, line: int) -> None:
    """Count a key or value of a collection."""
    collection.size += size
    if collection.size > _MOST_VALUES:
        raise UnsafeYamlError(f"line {line}: aliases repeat more than {_MOST_VALUES:,} values")
    is_key = collection.keys is not None and collection.children % 2 == 0
    collection.children += 1
    if not is_key or key is None or key == _MERGE or collection.keys is None:
        return
    if key in collection.keys:
        raise UnsafeYamlError(
            f"the key {key!r} is given twice, on lines {collection.keys[key]} and {line}: the first would be ignored"
        )
    collection.keys[key] = line
