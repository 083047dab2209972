"""How a command ends: its exit code, and the message of an error that a person can mend."""

import sys
from collections.abc import Callable

from depth_distill.errors import is_out_of_memory, one_line, user_error_in

USAGE = 2
"""Something that the person can mend; 0 is success, 1 a fault or a verdict."""
INTERRUPTED = 130
"""As a shell reports a process that Ctrl-C ended."""
TERMINATED = 143
"""As a shell reports a process that SIGTERM ended."""


def exit_code(run: Callable[[], int | None]) -> int:
    """What ``run`` returns, 0 for None; 2, with a message, where it fails by something that a person can mend.

    That is an error of ours, a file or folder that cannot be read or written, and too little memory. Where Ctrl-C ended
    it, 130, also inside of Lightning's trainer, which would exit with 1.
    """
    try:
        return run() or 0
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        message = _message(error)
        if message is None:
            raise
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text("error: ", style="red").append(message, style="default"), soft_wrap=True)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            return INTERRUPTED
        raise


def _message(error: Exception) -> str | None:
    """What a person can do about an error, in one line; None where it is a fault of this package."""
    cause = user_error_in(error)
    if cause is not None:
        # From a loader worker the message arrives below the worker's traceback.
        return " ".join(str(cause).rsplit(f"{type(cause).__name__}: ")[-1].split())
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename is not None else ""
        return f"{file}{error.strerror}; check the path, its permissions and the space on that disk"
    if is_out_of_memory(error):
        last = one_line(str(error).strip().rpartition("\n")[2], 160)
        return f"there is not enough memory ({last}); lower data.batch_size, data.image_size or data.num_workers"
    return None
