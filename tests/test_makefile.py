"""Targets of the Makefile take names with blanks."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_an_export_takes_blanks_in_checkpoint_and_folder():
    words = ["CKPT=my runs/a b.ckpt", "OUT=my bundle", "TARGET=my profile.yaml", "ARGS=--images 4"]
    printed = subprocess.run(
        ["make", "--dry-run", "export-npu", *words],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    command = next(line for line in printed.splitlines() if "depth_distill export" in line)
    given = ["--checkpoint", "my runs/a b.ckpt", "--target", "my profile.yaml", "--out", "my bundle", "--images", "4"]
    assert shlex.split(command)[4:] == given
