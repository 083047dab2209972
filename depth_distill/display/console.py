"""Consoles on which data is printed as it is."""

from typing import Any

from rich.console import Console

_PAGE_WIDTH = 160  # characters: files and pipes have no width, and the default of 80 would cut layer names


def plain_console(**options: Any) -> Console:
    """A console on which nothing is markup: names of files and layers, and messages, may hold ``[/red]`` or ``:100:``.

    Styles are given as arguments, or by ``rich.text.Text``.

    Args:
        options: those of ``rich.console.Console``.
    """
    return Console(markup=False, emoji=False, **options)


def wide_console() -> Console:
    """A console that is wide enough for tables of layers even if the output is not a terminal."""
    console = plain_console()
    if not console.is_terminal:
        console.width = max(console.width, _PAGE_WIDTH)
    return console
