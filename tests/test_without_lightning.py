"""What exports and analyses start from does without Lightning."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
for name in ("pytorch_lightning", "lightning", "lightning.pytorch"):
    sys.modules[name] = None  # an import of it fails
from pathlib import Path
import torch
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target
from depth_distill.loading.trained import load_run
run = load_run(Path(sys.argv[1]))
graph = fold(trace(run.network))
quantized = quantize_post_training(graph, load_target("per-tensor-minmax"), run.calibration_images(4), progress=False)
print(run.evaluator(reference=graph)(quantized)["abs_rel"], len(run.ranges))
"""


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_checkpoint_is_loaded_quantized_and_scored(kind, trained_checkpoint, distilled_run):
    checkpoint = trained_checkpoint if kind == "teacher" else distilled_run[0]
    found = subprocess.run([sys.executable, "-c", PROGRAM, str(checkpoint)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    score, ranges = found.stdout.split()
    assert 0 < float(score) < 10
    assert (int(ranges) > 0) == (kind == "student")
