"""Parsing of configs and command lines, with and without Lightning."""

import inspect
import re
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings
from omegaconf.errors import OmegaConfBaseException

from depth_distill.errors import ConfigError, building, one_line
from depth_distill.loading.config_errors import explain, explain_interpolation
from depth_distill.loading.logger_values import with_folders
from depth_distill.yaml_files import check_yaml, read_yaml

# ${data.root} refers to a key of the file in which it is written, under any subcommand.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
PARSER: Mapping[str, Any] = {
    "parser_mode": "omegaconf+",
    "prog": "depth-distill",
    "exit_on_error": False,
    "allow_abbrev": False,
}
"""Constructor arguments of every parser."""


def _check_what_is_loaded() -> None:
    """Let jsonargparse read no YAML, of a file or an option, that :func:`check_yaml` refuses.

    Loggers get a folder here, before the parser would ask for one.
    """
    mode = PARSER["parser_mode"]
    ArgumentParser(**PARSER).parse_string("{}")  # which registers the loader of this mode
    load = get_loader(mode)

    def checked(value: str) -> Any:
        check_yaml(value)
        return with_folders(load(value))

    set_loader(mode, checked, (yaml.YAMLError,))


_check_what_is_loaded()
# The parser writes values as YAML and reads them again; Lightning's Timer has a member of an enumeration for a default.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


def parse(
    parser: ArgumentParser, args: Sequence[str], files: Iterable[Path], command: ArgumentParser | None = None
) -> Namespace:
    """Parse a command line.

    Args:
        parser: a parser constructed with ``PARSER``.
        args: the command line.
        files: configs named on the command line, for error messages.
        command: parser of the subcommand, whose options error messages suggest.

    Raises:
        ConfigError: a config cannot be read, a key is unknown, a value does not fit its key, or refers to no key.
    """
    named = list(files)
    for file in filter(lambda file: file.name, named):
        content = read_yaml(file)
        if not isinstance(content, dict):
            raise ConfigError(f"{file} has no keys; expected a config with keys such as data, model and trainer")
        for key in ("data", "model", "trainer"):
            if not isinstance(content.get(key), dict | str | None):
                raise ConfigError(f"{file}: {key}: received {one_line(content[key], 60)}, expected keys with values")
    try:
        values = parser.parse_args(list(args))
    except ArgumentError as error:
        options = re.findall(r"--([\w.]+)", (command or parser).format_usage())
        raise ConfigError(explain(str(error), options, named)) from error
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(explain_interpolation(error, named)) from error
    require_classes(values.get(values.get("subcommand") or "", values))
    return values


def require_classes(value: Any, key: str = "") -> None:
    """Refuse functions among the classes that parsed values name, such as ``os.system`` for an optimizer.

    The parser compares classes with what their key expects, but takes every function where a factory is expected.

    Args:
        value: parsed values, or a part of them.
        key: where that part is.

    Raises:
        ConfigError: naming the key and the function.
    """
    if isinstance(value, Namespace | Mapping):
        # What the parser builds is a Namespace. A mapping is the argument of a class, such as the module of
        # ImportedNetwork, which may name a function, and code that is not on the path yet.
        path = value.get("class_path") if isinstance(value, Namespace) else None
        if isinstance(path, str) and "." in path and not inspect.isclass(_imported(path)):
            raise ConfigError(f"{key}: {path} is no class; expected the class_path of one")
        for name, each in (vars(value) if isinstance(value, Namespace) else value).items():
            require_classes(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for each in value:
            require_classes(each, key)
    elif inspect.isroutine(value):
        raise ConfigError(f"{key}: {value.__module__}.{value.__qualname__} is no class; expected the class_path of one")


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name, None)


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Instantiate the classes of a parsed config.

    Raises:
        UserError: that of a class which cannot be built, in place of the parser's own.
        ConfigError: a class raises something else where it is built.
    """
    # Renamed to instantiate in jsonargparse 4.49, which warns about the old name.
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes
    with building("the config"):
        built: Namespace = build(config)
    return built
