"""Options of the trainer that it would take without a word, or fail on in the middle of a run."""

import os

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.loading.trainer_options import check_seed, check_trainer_options

GOOD = {"max_epochs": 3, "accelerator": "cpu", "devices": 1}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("max_epochs", 0, "1 or more"),
        ("max_epochs", -5, "1 or more"),
        ("max_steps", 0, "1 or more, or -1 for no limit"),
        ("accumulate_grad_batches", 0, "1 or more"),
        ("check_val_every_n_epoch", 0, "1 or more"),
        ("log_every_n_steps", -1, "1 or more"),
        ("gradient_clip_val", -1.0, "0 or more"),
        ("val_check_interval", 0, "more than 0"),
        ("limit_train_batches", 0.0, "more than 0: nothing is learned from no batch"),
        ("default_root_dir", "elsewhere", "--run_dir"),
        ("devices", 0, f"1 to {os.cpu_count()}, the cores of this machine"),
        ("devices", "10000", f"1 to {os.cpu_count()}, the cores of this machine"),
        ("precision", "64-true", "expected one of 32-true, bf16-mixed (weights"),
        ("min_epochs", -1, "0 or more"),
        ("num_sanity_val_steps", -5, "-1 for all"),
        ("precision", "16-mixed", "expected one of 32-true, bf16-mixed (weights"),
    ],
)
def test_key_value_and_cure_are_named(key, value, expected):
    with pytest.raises(ConfigError) as caught:
        check_trainer_options(GOOD | {key: value})
    assert str(caught.value).startswith(f"trainer.{key}: received {value}")
    assert expected in str(caught.value)


def test_a_run_without_an_end_is_refused():
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs: received None, so the run would never end"):
        check_trainer_options(GOOD | {"max_epochs": None, "max_steps": -1})
    check_trainer_options(GOOD | {"max_epochs": None, "max_steps": 10})
    check_trainer_options(GOOD | {"max_epochs": None, "max_time": "00:01:00:00"})


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"trainer\.accelerator: received gpu, but torch finds no GPU"):
        check_trainer_options(GOOD | {"accelerator": "gpu"})


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"devices": "auto", "accelerator": "auto", "precision": "bf16-mixed"},
        {"max_epochs": -1, "max_steps": 1000},
        {"gradient_clip_val": None, "val_check_interval": 0.5, "limit_train_batches": 2, "max_steps": -1},
    ],
)
def test_good_options_are_left_alone(good):
    check_trainer_options(GOOD | good)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take_is_refused(seed):
    with pytest.raises(ConfigError, match=f"^seed_everything: received {seed}, expected 0 to 4294967295$"):
        check_seed("seed_everything", seed)


def test_no_seed_and_a_good_one_are_left_alone():
    for seed in (0, 2**32 - 1, True, False, None):
        check_seed("seed_everything", seed)


def test_an_evaluation_needs_no_end():
    check_trainer_options(GOOD | {"max_epochs": None, "limit_train_batches": 0.0}, fits=False)


def test_a_gpu_of_another_make_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    check_trainer_options(GOOD | {"accelerator": "gpu"})
    with pytest.raises(ConfigError, match="received cuda, but torch finds no GPU"):
        check_trainer_options(GOOD | {"accelerator": "cuda"})
