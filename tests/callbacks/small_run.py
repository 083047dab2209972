"""A network, data and a trainer that fit in seconds: what the callbacks are tested on."""

import torch
from pytorch_lightning import Callback, Trainer
from torch.optim import AdamW

from depth_distill.data.datamodule import DepthDataModule
from depth_distill.losses import CompositeLoss, SILogLoss
from depth_distill.models import DepthNet
from depth_distill.tasks import DepthTask
from tests.data.constant_depth import ConstantDepth

STEPS_AN_EPOCH = 4


class FailAt(Callback):
    """Raise after a step, as a bad file would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            raise ValueError("my_data/rgb/0001.jpg: no such file")


def task():
    torch.manual_seed(0)
    return DepthTask(
        network=DepthNet("mobilenetv3_small_050", decoder_channels=(16, 16, 8, 8, 8)),
        loss=CompositeLoss({"silog": SILogLoss()}),
        optimizer=lambda parameters: AdamW(parameters, lr=5e-3),
    )


def datamodule(**kwargs):
    """16 samples to learn from and 6 to validate on, in batches of 4: the last validation batch is not full."""
    defaults = {
        "train": ConstantDepth(4 * STEPS_AN_EPOCH),
        "val": ConstantDepth(6, size=(32, 64)),
        "image_size": (32, 64),
        "batch_size": 4,
        "num_workers": 0,
    }
    return DepthDataModule(**defaults | kwargs)


def trainer(folder, *callbacks, epochs=1, **kwargs):
    defaults = {
        "max_epochs": epochs,
        "accelerator": "cpu",
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(callbacks=list(callbacks), **defaults | kwargs)
