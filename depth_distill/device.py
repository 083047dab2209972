"""Where networks are computed, and in which arithmetic: devices by name, and float32 that is float32."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from depth_distill.errors import ConfigError

AUTO = "auto"

_Module = TypeVar("_Module", bound=nn.Module)
_gradient_dtype: ContextVar[torch.dtype | None] = ContextVar("gradient_dtype", default=None)


def choose_device(name: str = AUTO) -> torch.device:
    """The device of that name: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU if there is one.

    What is measured there is measured in float32: see :func:`allow_tf32`.

    Raises:
        ConfigError: there is no such device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ConfigError(f"--device: received '{name}', expected auto, cpu, cuda or cuda:N")
    allow_tf32(False)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == AUTO:
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        found = f"torch can use {count}, numbered from 0" if count else "there is no GPU that torch can use"
        raise ConfigError(f"--device: received '{name}', but {found}: give auto or cpu")
    return device


def allow_tf32(allowed: bool) -> None:
    """Whether GPUs may round the factors of float32 products to 11 significant bits (TF32).

    Torch allows it in convolutions unless told otherwise, which moves a metric in its fourth digit, and a value that
    was rounded to 8 bits by up to 0.06 of a step.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 within the block: without autocast and without TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    allow_tf32(False)
    try:
        if torch.amp.is_autocast_available(device.type):
            with torch.autocast(device.type, enabled=False):
                yield
        else:
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def emulates_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU is known to have no instructions for bfloat16, so that torch goes by way of float32.

    A convolution forwards and backwards took 13 times as long as in float32 on a CPU with AVX2 alone. False where the
    flags of the CPU cannot be read.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)  # x86 and ARM
    return found is not None and not {"avx512_bf16", "amx_bf16", "bf16"} & set(found[1].split())


def in_autocast(device: torch.device) -> bool:
    """Whether operators on this device may run in a shorter format than float32."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Compute what autocast would shorten as it is; inside, :func:`gradient_dtype` tells what gradients may be."""
    short = torch.get_autocast_dtype(device.type) if in_autocast(device) else None
    before = _gradient_dtype.set(
        torch.bfloat16 if short is torch.bfloat16 else None
    )  # float16 holds too few magnitudes
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _gradient_dtype.reset(before)


def gradient_dtype() -> torch.dtype | None:
    """The format that products of gradients may have where autocast is held off; None is that of their numbers."""
    return _gradient_dtype.get()


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes; the CPU, if it has no weights."""
    return next(iter(module.state_dict().values()), torch.empty(0)).device


def on_cpu(module: _Module) -> _Module:
    """The module itself if it is on the CPU, otherwise a copy there."""
    return module if device_of(module).type == "cpu" else copy.deepcopy(module).cpu()
