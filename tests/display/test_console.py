"""Consoles print what they are given, whatever it looks like."""

import io
import re
from pathlib import Path

import pytest
from rich.table import Table

from depth_distill.display.console import plain_console, wide_console

PACKAGE = Path(__file__).parents[2] / "depth_distill"
NAMES = ["[/red]", "[bold]a[/bold].png", "depth [m] :100: x"]


@pytest.mark.parametrize("name", NAMES)
def test_text_and_tables_are_printed_as_they_are(name):
    file = io.StringIO()
    console = plain_console(file=file, width=100)
    console.print(f"written  {name}")
    table = Table("name", title=f"title {name}", caption=f"caption {name}")
    table.add_row(f"cell {name}")
    console.print(table)
    for where in ("written ", "title", "cell", "caption"):
        assert f"{where} {name}" in file.getvalue()


def test_a_file_is_wide_enough_for_tables_of_layers(capsys):
    wide_console().print("a" * 150)
    assert capsys.readouterr().out == "a" * 150 + "\n"


def test_the_package_prints_on_no_other_console():
    allowed = {"console.py", "exit_codes.py"}  # the second prints a Text
    made = {path.name for path in PACKAGE.rglob("*.py") if re.search(r"\bConsole\(|from_markup", path.read_text())}
    assert made <= allowed
