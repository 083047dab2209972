"""A config of the smallest kind, for tools that read one."""

import yaml

CONSTANT = "tests.data.constant_depth.ConstantDepth"


def write_config(path, **data):
    """Write a run on 32 x 64 images; ``data`` replaces keys of its data block."""
    config = {
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False},
        "data": {
            "train": {"class_path": CONSTANT, "init_args": {"length": 8, "size": [32, 64]}},
            "val": {"class_path": CONSTANT, "init_args": {"length": 3, "size": [32, 64]}},
            "image_size": [32, 64],
            "batch_size": 4,
            "num_workers": 0,
        }
        | data,
        "model": {
            "class_path": "DepthTask",
            "init_args": {
                "network": {
                    "class_path": "DepthNet",
                    "init_args": {"encoder": "mobilenetv3_small_050", "decoder_channels": [16, 16, 8, 8, 8]},
                },
                "loss": {"class_path": "CompositeLoss", "init_args": {"terms": {"silog": {"class_path": "SILogLoss"}}}},
                "lr_scheduler": {"class_path": "WarmupCosineLR"},
            },
        },
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)
