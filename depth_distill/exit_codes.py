"""How a command ends: its exit code, and the message of an error that a person can mend."""

import sys
from collections.abc import Callable

from depth_distill.errors import user_error_in

USAGE = 2
"""Something that the person can mend; 0 is success, 1 a fault or a verdict."""
INTERRUPTED = 130
"""As a shell reports a process that Ctrl-C ended."""
TERMINATED = 143
"""As a shell reports a process that SIGTERM ended."""


def exit_code(run: Callable[[], int | None]) -> int:
    """What ``run`` returns, 0 for None; 2, with a message, where it fails by something that a person can mend.

    Where Ctrl-C ended it, 130, also inside of Lightning's trainer, which would exit with 1.
    """
    try:
        return run() or 0
    except ValueError as error:
        cause = user_error_in(error)
        if cause is None:
            raise
        from rich.console import Console
        from rich.text import Text

        # From a loader worker the message arrives below the worker's traceback.
        message = str(cause).rsplit(f"{type(cause).__name__}: ")[-1].strip()
        Console(stderr=True).print(Text("error: ", style="red").append(message, style="default"), soft_wrap=True)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            return INTERRUPTED
        raise
