"""What can be wrong with a checkpoint or a target is a message and exit code 2, in every analysis tool."""

import shutil

import pytest

from depth_distill.cli import main

TOOLS = ("error-budget", "sensitivity", "mixed-precision")
ENCODER = "--model.init_args.network.init_args.encoder"


@pytest.fixture
def checkpoint(trained_checkpoint, tmp_path):
    shutil.copytree(trained_checkpoint.parents[1], tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("tool", TOOLS)
def test_it_says_what_is_wrong(tool, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"

    def error(path=checkpoint, *words):
        assert main([tool, "--checkpoint", str(path), "--out", str(out), *words]) == 2
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        (line,) = (line for line in printed.splitlines() if line.startswith("error: "))
        return line

    assert "lost.ckpt: no such checkpoint; in" in error(checkpoint.with_name("lost.ckpt"))
    assert "last.ckpt" in error(checkpoint.with_name("lost.ckpt"))  # what there is instead
    assert "is of another network than" in error(checkpoint, ENCODER, "mobilenetv3_small_050")
    assert "timm has no encoder 'resnet81'" in error(checkpoint, ENCODER, "resnet81")
    assert "unknown target 'per-chanel'; did you mean 'per-channel'" in error(checkpoint, "--target", "per-chanel")
    assert "there is no option 'data.batch_sise'" in error(checkpoint, "--data.batch_sise", "2")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "last.ckpt cannot be read as a checkpoint" in error()
    assert "is it truncated?" in error()
    assert not out.exists()
