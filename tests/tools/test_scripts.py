"""tools/*.py run the commands under their old names."""

import subprocess
import sys
from pathlib import Path

import pytest

from depth_distill.commands import COMMANDS

SCRIPTS = sorted((Path(__file__).parents[2] / "tools").glob("*.py"))
RENAMED = {"export_npu": "export", "test_npu": "npu-compare"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_its_command(script):
    command = RENAMED.get(script.stem, script.stem.replace("_", "-"))
    assert command in COMMANDS
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: depth-distill {command} ")
