"""Progress in a file or a pipe: plain lines, not too many."""

import pytest
from rich.console import Console

from depth_distill.display import progress


def counted(console, total=3):
    with console.capture() as captured, progress.counting("[val]", total, console) as step:
        for _ in range(total):
            step()
    return captured.get()


@pytest.mark.parametrize(("seconds", "lines"), [(0, ["1", "2", "3"]), (1000, ["3"])])
def test_lines_where_there_is_no_terminal(seconds, lines, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", seconds)
    assert counted(Console(width=20)) == "".join(f"[val]: {done} of 3\n" for done in lines)


def test_what_was_done_is_shown_after_an_interrupt():
    console = Console(width=20)
    with console.capture() as captured, progress.counting("val", 3, console) as step:
        step()
    assert captured.get() == "val: 1 of 3\n"


def test_a_bar_on_a_terminal():
    assert "100%" in counted(Console(force_terminal=True, width=80))
