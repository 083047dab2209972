"""How far a long command is: a bar on a terminal, and lines in a file or a pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def counting(name: str, total: int, console: Console) -> Iterator[Callable[[], object]]:
    """A function to call after each of ``total`` steps.

    Args:
        name: what is counted.
        total: number of steps.
        console: where it is shown. If it is no terminal, a line follows at most every ten seconds, and one at the end.
    """
    if console.is_terminal:
        with Progress(console=console) as bar:
            yield partial(bar.advance, bar.add_task(name, total=total))
        return
    done, shown = 0, time.monotonic()

    def show() -> None:
        console.print(Text(f"{name}: {done} of {total}"), soft_wrap=True)

    def step() -> None:
        nonlocal done, shown
        done += 1
        if time.monotonic() - shown >= SECONDS_BETWEEN_LINES and done < total:
            shown = time.monotonic()
            show()
            console.file.flush()

    yield step
    show()
