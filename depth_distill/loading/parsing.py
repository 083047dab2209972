"""Parsing of configs and command lines, with and without Lightning."""

import re
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from depth_distill.errors import ConfigError, user_error_in
from depth_distill.loading.config_errors import explain

# ${data.root} refers to a key of the file in which it is written, under any subcommand.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
PARSER: Mapping[str, Any] = {
    "parser_mode": "omegaconf+",
    "prog": "depth-distill",
    "exit_on_error": False,
    "allow_abbrev": False,
}
"""Constructor arguments of every parser."""


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
        ConfigError: a key is unknown, or a value does not fit its key.
    """
    try:
        return parser.parse_args(list(args))
    except ArgumentError as error:
        options = re.findall(r"--([\w.]+)", (command or parser).format_usage())
        raise ConfigError(explain(str(error), options, files)) from error


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Instantiate the classes of a parsed config.

    Raises:
        UserError: that of a class which cannot be built, in place of the parser's own.
    """
    # Renamed to instantiate in jsonargparse 4.49, which warns about the old name.
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes
    try:
        built: Namespace = build(config)
    except ValueError as error:
        cause = user_error_in(error)
        raise (cause or error) from error
    return built
