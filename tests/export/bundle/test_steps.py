"""Steps: run once, run again if something changed, and named in errors."""

import errno

import pytest
from rich.console import Console

from depth_distill.errors import DataError
from depth_distill.export.bundle.steps import StepError, StepRunner


def run(folder, depends_on, calls, text="one", everything=None):
    def make():
        calls.append(text)
        (folder / "file.txt").write_text(text)
        return {"made": text}

    steps = StepRunner(folder, Console(quiet=True), everything)
    return steps.run("make it", depends_on, make, ["file.txt"])


def test_a_finished_step_is_kept_until_something_changes(tmp_path):
    calls = []
    assert run(tmp_path, 1, calls) == {"made": "one"}
    assert run(tmp_path, 1, calls, "two") == {"made": "one"}
    assert calls == ["one"]
    assert run(tmp_path, 2, calls, "two") == {"made": "two"}  # what it depends on
    assert run(tmp_path, 2, calls, "three", "another version") == {"made": "three"}
    (tmp_path / "file.txt").write_text("changed")  # its file
    assert run(tmp_path, 2, calls, "four", "another version") == {"made": "four"}
    (tmp_path / "file.txt").unlink()
    assert run(tmp_path, 2, calls, "five", "another version") == {"made": "five"}
    (tmp_path / "steps.json").write_text("{")  # the record
    assert run(tmp_path, 2, calls, "six", "another version") == {"made": "six"}


@pytest.mark.parametrize(
    ("error", "message"),
    [(DataError("no images"), "step 'load': no images"), (OSError(errno.ENOSPC, "No space left"), "No space left")],
)
def test_a_failure_names_its_step(error, message, tmp_path):
    def fail():
        raise error

    with pytest.raises(StepError, match=message):
        StepRunner(tmp_path, Console(quiet=True)).run("load", None, fail)


def test_what_no_person_can_mend_is_passed_on(tmp_path):
    with pytest.raises(ZeroDivisionError):
        StepRunner(tmp_path, Console(quiet=True)).run("load", None, lambda: 1 / 0)
