"""Run folders as fit leaves them, without a training."""

import csv
import json

import numpy as np
import yaml
from PIL import Image

BANDS = ("0.5-2m", "2-5m")


def config(max_epochs, monitor="val/abs_rel", callbacks=None, **network):
    """Plain data of a resolved config."""
    return {
        "seed_everything": 0,
        "trainer": {"max_epochs": max_epochs, "max_steps": -1, "callbacks": callbacks},
        "checkpoint": {"monitor": monitor, "mode": "min"},
        "data": {
            "train": {"class_path": "depth_distill.data.SyntheticDepth", "init_args": {"length": 8}},
            "val": {"class_path": "depth_distill.data.SyntheticDepth", "init_args": {"length": 4}},
            "image_size": [96, 128],
            "batch_size": 8,
        },
        "model": {
            "class_path": "depth_distill.tasks.DepthTask",
            "init_args": {
                "network": {
                    "class_path": "depth_distill.models.DepthNet",
                    "init_args": {"encoder": "resnet18", **network},
                },
            },
        },
    }


def fake_quant(**options):
    """An entry of ``trainer.callbacks``."""
    path = "depth_distill.callbacks.FakeQuant"
    return {"class_path": path, "init_args": {"target": "rknn", "recipe": "equalize", "start_epoch": 0, **options}}


def write_log(path, rows):
    """A file such as metrics.csv; a row is a mapping."""
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def rows(abs_rel, vendor=(), steps=4, first=0, losses=("silog",)):
    """Rows of a log: training rows and a validation per epoch."""
    found = []
    for epoch, value in enumerate(abs_rel, start=first):
        for step in range(epoch * steps, (epoch + 1) * steps):
            terms = {f"train/{name}": 1 / (step + 1) for name in losses}
            more = {"train/loss": 2 / (step + 1), "train/lr": 1e-3, "train/grad_norm": 1.0}
            found.append({"epoch": epoch, "step": step, **terms, **more})
        row = {"epoch": epoch, "step": (epoch + 1) * steps - 1, "val/loss": value, "val/abs_rel": value}
        row |= {f"val/abs_rel_{band}": value for band in BANDS} | {"val/delta1": 1 - value}
        if vendor:
            row |= {"vendor/abs_rel": vendor[epoch - first]}
        found.append(row)
    return found


def write_run(folder, abs_rel=(0.4, 0.3, 0.2), max_epochs=None, vendor=(), monitor="val/abs_rel", callbacks=None):
    """A finished training, without pictures, ranges of layers and checkpoints."""
    folder.mkdir(parents=True)
    done = len(abs_rel)
    content = config(max_epochs or done, monitor, callbacks)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    write_log(folder / "metrics.csv", rows(abs_rel, vendor))
    summary = {
        "metrics": {"val/abs_rel": min(abs_rel)}, "protocol": "per-image mean", "epochs": done, "steps": 4 * done,
        "wall_s": 75.0, "train_images_per_s": 20.5, "seed": 0, "versions": {"depth-distill": "0.2.0"},
        "best_checkpoint": str(folder / "checkpoints" / "epoch000.ckpt"),
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_layers(folder, epochs=(0, 1), layers=(("stem", "activation", -1.0, 2.0, -1.5, 1.5, 0.25),)):
    """``layers.csv``: name, kind, min, max, low, high and saturated of each layer."""
    names = ("layer", "kind", "min", "max", "low", "high", "saturated")
    found = [{"epoch": epoch, **dict(zip(names, each, strict=True))} for epoch in epochs for each in layers]
    write_log(folder / "layers.csv", found)


def write_picture(path, shade=0):
    """A small PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 8, 3), shade, np.uint8)).save(path)


def write_checkpoints(folder, *names):
    """Files of the names of checkpoints; nobody loads them."""
    (folder / "checkpoints").mkdir()
    for name in names:
        (folder / "checkpoints" / name).write_bytes(b"")
