"""Values of Lightning's trainer that it would take without a word, or fail on in the middle of a run."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from depth_distill.errors import ConfigError

_LARGEST_SEED = 2**32 - 1  # of NumPy

_OLD_NAMES = {"32-true": "32", "16-mixed": "16", "bf16-mixed": "bf16"}


def _from(least: int) -> Callable[[Any], bool]:
    return lambda value: value >= least


# By key: which values are good, and how they are called. None, where the trainer takes it, is good.
_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_epochs": (lambda value: value == -1 or value >= 1, "1 or more, or -1 for no limit"),
    "min_epochs": (_from(0), "0 or more"),
    "num_sanity_val_steps": (_from(-1), "0 or more, or -1 for all"),
    "max_steps": (lambda value: value == -1 or value >= 1, "1 or more, or -1 for no limit"),
    "accumulate_grad_batches": (_from(1), "1 or more"),
    "check_val_every_n_epoch": (_from(1), "1 or more"),
    "log_every_n_steps": (_from(1), "1 or more"),
    "gradient_clip_val": (_from(0), "0 or more"),
    "val_check_interval": (lambda value: not isinstance(value, int | float) or value > 0, "more than 0"),
}
_EXPECTED_BY_FIT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "limit_train_batches": (lambda value: value > 0, "more than 0: nothing is learned from no batch"),
}


def check_trainer_options(trainer: Mapping[str, Any], fits: bool = True) -> None:
    """Check the values of ``trainer`` before it is built.

    Args:
        trainer: parsed values by key.
        fits: whether the trainer is going to train.

    Raises:
        ConfigError: naming the key, its value and what is expected.
    """
    for key, (is_good, expected) in (_EXPECTED | (_EXPECTED_BY_FIT if fits else {})).items():
        value = trainer.get(key)
        if value is not None and not is_good(value):
            raise ConfigError(f"trainer.{key}: received {value}, expected {expected}")
    if fits and all(trainer.get(key) in (None, -1) for key in ("max_epochs", "max_steps", "max_time")):
        raise ConfigError("trainer.max_epochs: received None, so the run would never end; give the number of epochs")
    if trainer.get("barebones"):
        raise ConfigError("trainer.barebones: received true, but a run keeps a log and checkpoints; leave it out")
    if trainer.get("default_root_dir") is not None:
        raise ConfigError(
            f"trainer.default_root_dir: received {trainer['default_root_dir']}, but the run folder takes its place; "
            "give --run_dir"
        )
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    found = {"gpu": has_gpu, "cuda": torch.cuda.is_available()}
    if not found.get(str(trainer.get("accelerator")), True):
        raise ConfigError(
            f"trainer.accelerator: received {trainer['accelerator']}, but torch finds no GPU; expected cpu or auto"
        )
    on_cpu = trainer.get("accelerator") == "cpu" or (trainer.get("accelerator") == "auto" and not has_gpu)
    precision, known = str(trainer.get("precision")), ["32-true", "bf16-mixed", "16-mixed"]
    if on_cpu:
        known.remove("16-mixed")  # Lightning would take bf16-mixed instead
    if precision not in (*known, *(_OLD_NAMES[name] for name in known), "None"):
        raise ConfigError(
            f"trainer.precision: received {precision}; expected one of {', '.join(known)} (weights are float32)"
        )
    devices, cores = str(trainer.get("devices")), os.cpu_count() or 1
    if on_cpu and devices.lstrip("-").isdigit() and not 1 <= int(devices) <= cores:
        raise ConfigError(f"trainer.devices: received {devices}, expected 1 to {cores}, the cores of this machine")


def check_seed(key: str, seed: Any) -> None:
    """Check that NumPy and torch take a seed.

    Raises:
        ConfigError: it is negative or too large.
    """
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed <= _LARGEST_SEED:
        raise ConfigError(f"{key}: received {seed}, expected 0 to {_LARGEST_SEED}")
