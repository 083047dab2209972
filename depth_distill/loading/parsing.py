"""How configs and command lines are read, with Lightning and without."""

import re
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from depth_distill.errors import ConfigError
from depth_distill.loading.config_errors import explain

# ${data.root} names a key of the file it stands in, whatever subcommand the file is given to.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
PARSER: Mapping[str, Any] = {"parser_mode": "omegaconf+", "prog": "depth-distill", "exit_on_error": False}
"""Arguments of every parser."""


def parse(
    parser: ArgumentParser, args: Sequence[str], files: Iterable[Path], command: ArgumentParser | None = None
) -> Namespace:
    """Parse a command line.

    Args:
        parser: made with the arguments ``PARSER``.
        args: the command line.
        files: configs that it names.
        command: the parser of the subcommand that it names.

    Raises:
        ConfigError: an unknown key, or a value that does not fit its key.
    """
    try:
        return parser.parse_args(list(args))
    except ArgumentError as error:
        options = re.findall(r"--([\w.]+)", (command or parser).format_usage())
        raise ConfigError(explain(str(error), options, files)) from error


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Build what a parsed config names."""
    # Called instantiate from jsonargparse 4.49 on, which warns of the old name.
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes
    built: Namespace = build(config)
    return built
