"""Steps: run once, run again if something changed, and named in errors."""

import errno

import pytest
import torch
from rich.console import Console
from torch import nn

from depth_distill.errors import DataError
from depth_distill.export.bundle.steps import StepError, StepRunner, resumable_passes
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.target.target import load_target
from tests.quantization.passes.blocks import images


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


def test_what_was_made_of_another_structure_is_not_kept(tmp_path):
    """ReLU6 and ReLU have no weights: only the structure tells the recipes apart."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 1, 1))
    context = Context(load_target("per-tensor-minmax"), [images()], Interface.raw("image", (3, 12, 12), ["y"]))

    def export(*passes):
        steps = StepRunner(tmp_path, Console(quiet=True))
        prepared = Preparer(network, context, resumable_passes(steps))(Recipe.from_entries(passes))
        steps.run("calibrate", prepared.fingerprint, lambda: None)
        return {"recipe: bias_correct", "calibrate"} & set(steps.kept)

    assert export("fold", "bias_correct") == set()
    assert export("fold", "replace_relu6", "bias_correct") == set()
    assert export("fold", "replace_relu6", "bias_correct") == {"recipe: bias_correct", "calibrate"}
