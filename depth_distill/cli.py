"""The command line: ``depth-distill COMMAND``, or ``python -m depth_distill COMMAND``.

Words are parsed before anything heavy is imported, so that help and a typo are answered at once.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import depth_distill
from depth_distill.commands import COMMANDS, command_module
from depth_distill.commands.options import CommandParser
from depth_distill.errors import ConfigError
from depth_distill.exit_codes import USAGE, exit_code

_CLOSED = 141
"""As a shell reports a process that SIGPIPE ended."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code.

    It is 0, 1 for a fault or a verdict, 2 for a mistake, 130 after Ctrl-C, 143 after SIGTERM, 141 where nobody reads
    the output any more, as in ``depth-distill list encoders | head``.

    Args:
        args: the command line without the program's name; that of the process unless given.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        return exit_code(lambda: _until_closed(words))
    except SystemExit as stopped:  # a help page was printed, or Lightning ended the process
        return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)


def command_parser(name: str) -> CommandParser:
    """The parser of a subcommand."""
    module = command_module(name)
    parser = CommandParser(name, module.__doc__ or "", module.EXAMPLE)
    module.add_arguments(parser)
    return parser


def _until_closed(words: Sequence[str]) -> int | None:
    """Run, and end without a word where the reader of the output went away."""
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return _CLOSED
    return code


def _run(words: Sequence[str]) -> int | None:
    name = words[0] if words else ""
    if name in ("", "-h", "--help"):
        print(_overview())
        return 0 if name else USAGE
    if name == "--version":
        print(f"depth-distill {depth_distill.__version__}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "depth-distill --help lists them"
        raise ConfigError(f"there is no command '{name}'; {hint}")
    try:
        folder = str(Path.cwd())
    except FileNotFoundError as error:
        raise ConfigError("the working directory is gone: change to one that is there") from error
    if folder not in sys.path:
        sys.path.append(folder)  # classes that a config names may be the user's own
    options, overrides = command_parser(name).parse(words[1:])
    options.words = list(words)
    code: int | None = command_module(name).run(options, overrides)
    return code


def _overview() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: depth-distill COMMAND [OPTION ...]",
            "",
            depth_distill.__doc__ or "",
            "",
            "commands:",
            *(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()),
            "",
            "options:",
            "  -h, --help  show this page; depth-distill COMMAND --help has the options of a command, with an example",
            "  --version   show the version",
            "",
            "example:",
            "  depth-distill fit --config quickstart",
        ]
    )
