"""A student, a teacher and data that take a step in milliseconds: what distillation is tested on."""

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD

from depth_distill.data.datamodule import DepthDataModule
from depth_distill.losses import CompositeLoss, FeatureMSE, L1Loss
from depth_distill.models import CodeNetwork, SingleCodec
from depth_distill.tasks import DistillationTask, LayerPair
from depth_distill.types import DepthRange
from tests.data.noisy_depth import NoisyDepth

RANGE = DepthRange(0.5, 15.0)
STEPS_AN_EPOCH = 4


def conv_norm(inputs, outputs, stride=1):
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]


class Residual(nn.Module):
    """Ends in a module, or in a bare addition."""

    def __init__(self, width, last):
        super().__init__()
        self.body = nn.Sequential(*conv_norm(width, width), nn.ReLU(), *conv_norm(width, width))
        self.last = last

    def forward(self, features):
        total = self.body(features) + features
        return self.last(total) if self.last is not None else total


class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, width, 2), nn.ReLU())
        self.layer1 = Residual(width, nn.ReLU())
        self.layer2 = Residual(width, None)

    def forward(self, image):
        return self.layer2(self.layer1(self.stem(image)))


class SmallNet(CodeNetwork):
    """Stride 4; batch norm has statistics of its own, so that folding changes every weight."""

    def __init__(self, width=8, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = Encoder(width)
            self.decoder = nn.ModuleDict(
                {"up": nn.Sequential(nn.Upsample(scale_factor=2.0), *conv_norm(width, width), nn.ReLU())}
            )
            self.head = nn.Sequential(nn.Conv2d(width, 1, 1), nn.Sigmoid())
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.normal_(module.running_mean, std=0.1)
                    nn.init.uniform_(module.running_var, 0.5, 1.5)
                    nn.init.uniform_(module.weight, 0.5, 1.5)
        self.depth_range = RANGE
        self.stride = 4

    @property
    def codec(self):
        return SingleCodec(self.depth_range)

    def forward(self, image):
        return self.head(self.decoder["up"](self.encoder(image)))


def task(**kwargs):
    """A student that starts elsewhere than its teacher, and learns its output."""
    torch.manual_seed(0)
    defaults = {
        "network": SmallNet(),
        "teacher": SmallNet(seed=1),
        "student_init": "scratch",
        "output": CompositeLoss({"l1": L1Loss()}),
        "optimizer": lambda parameters: SGD(parameters, lr=1e-2, momentum=0.9),
    }
    return DistillationTask(**defaults | kwargs)


def pair(student="encoder.layer1", teacher=None, loss=None):
    return LayerPair(student, loss or FeatureMSE(), teacher)


def datamodule(**kwargs):
    """16 samples to learn from and 6 to validate on, in batches of 4: the last validation batch is not full."""
    defaults = {
        "train": NoisyDepth(4 * STEPS_AN_EPOCH),
        "val": NoisyDepth(6, seed=1),
        "image_size": (32, 32),
        "batch_size": 4,
        "num_workers": 0,
        "calibration_size": 6,
    }
    return DepthDataModule(**defaults | kwargs)


def trainer(folder, *callbacks, epochs=1, **kwargs):
    defaults = {
        "max_epochs": epochs,
        "accelerator": "cpu",
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": any(isinstance(each, ModelCheckpoint) for each in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(callbacks=list(callbacks), **defaults | kwargs)


class StopAfter(ModelCheckpoint):
    """Raise after a number of steps, as a Ctrl-C would, and save."""

    def __init__(self, folder, steps):
        super().__init__(dirpath=folder, save_last=True, save_on_exception=True, save_top_k=0)
        self.steps = steps

    def on_train_batch_end(self, trainer, *args, **kwargs):
        super().on_train_batch_end(trainer, *args, **kwargs)
        if trainer.global_step == self.steps:
            raise InterruptedError("stop here")


class Losses(Callback):
    """Keep what every step logs."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    @property
    def total(self):
        return [step["train/loss"] for step in self.steps]


def same_weights(one, other):
    """Whether two state dicts are the same to the last bit; names the first that is not."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
