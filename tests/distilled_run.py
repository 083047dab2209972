"""A finished distillation on the built-in scenes, fake-quantized, with the network of trained_run as its teacher."""

import contextlib
import copy
import io

import yaml

from depth_distill.cli import main
from tests.trained_run import CONFIG as TEACHER


def config(teacher_checkpoint, quantized=True):
    """Plain data of the run's config."""
    values = copy.deepcopy(TEACHER)
    network = values["model"]["init_args"]["network"]
    values["model"] = {
        "class_path": "DistillationTask",
        "init_args": {
            "network": network,
            "teacher_checkpoint": str(teacher_checkpoint),
            "output": {"class_path": "CompositeLoss", "init_args": {"terms": {"log_l1": {"class_path": "LogL1Loss"}}}},
            "features": [{"student": "decoder.blocks.?", "loss": {"class_path": "FeatureNormalizedMSE"}}],
            "hints": [{"student": "encoder.blocks.3", "loss": {"class_path": "AttentionTransfer"}}],
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
        },
    }
    values["data"]["calibration_size"] = 4
    if quantized:
        values["trainer"]["callbacks"] = [{"class_path": "FakeQuant", "init_args": {"recipe": "naive"}}]
        values["checkpoint"] = {
            "monitor": "vendor/abs_rel",
            "filename": "epoch{epoch:03d}-vendor_abs_rel{vendor/abs_rel:.4f}",
        }
    return values


def fit(folder, teacher_checkpoint, quantized=True, words=()):
    """Distill in ``folder/runs/distilled``; returns the last checkpoint and what was printed."""
    folder.mkdir(exist_ok=True)
    (folder / "distilled.yaml").write_text(yaml.safe_dump(config(teacher_checkpoint, quantized)))
    printed, run = io.StringIO(), folder / "runs" / "distilled"
    with contextlib.redirect_stdout(printed):
        assert main(["fit", "--config", str(folder / "distilled.yaml"), "--run_dir", str(run), *words]) == 0
    return run / "checkpoints" / "last.ckpt", printed.getvalue()
