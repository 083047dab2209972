"""A finished run on the built-in scenes, trained for an epoch: what tools start from."""

import contextlib
import io

import yaml

from depth_distill.cli import main

CONFIG = {
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "num_sanity_val_steps": 0, "enable_progress_bar": False},
    "panels": {"every_n_epochs": 0},
    "data": {
        "train": {"class_path": "SyntheticDepth", "init_args": {"length": 8, "size": [32, 64]}},
        "val": {"class_path": "SyntheticDepth", "init_args": {"length": 5, "size": [32, 64], "seed": 1}},
        "image_size": [32, 64],
        "batch_size": 2,
        "num_workers": 0,
    },
    "model": {
        "class_path": "DepthTask",
        "init_args": {
            "network": {
                "class_path": "DepthNet",
                # The smallest of timm's with a pyramid: analyses evaluate it some fifty times.
                "init_args": {"encoder": "test_efficientnet", "decoder_channels": [8, 8, 8, 8, 8]},
            },
            "loss": {"class_path": "CompositeLoss", "init_args": {"terms": {"silog": {"class_path": "SILogLoss"}}}},
            "lr_scheduler": {"class_path": "WarmupCosineLR"},
        },
    },
}


def fit(folder):
    """Train in ``folder/runs/small``; returns the last checkpoint."""
    (folder / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["fit", "--config", str(folder / "small.yaml"), "--run_dir", str(folder / "runs" / "small")]) == 0
    return folder / "runs" / "small" / "checkpoints" / "last.ckpt"
