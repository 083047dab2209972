"""Devices are chosen by name and refused by name, and what is measured is measured in float32."""

import pytest
import torch

from depth_distill.device import allow_tf32, choose_device, emulates_bfloat16, full_precision
from depth_distill.errors import ConfigError


def tf32():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def _tf32_as_before():
    before = tf32()
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (2, "cuda")])
def test_auto_is_a_gpu_where_there_is_one(monkeypatch, gpus, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_device("auto") == torch.device(device)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("cuda", 0, "--device: received 'cuda', but there is no GPU that torch can use: give auto or cpu"),
        ("cuda:2", 2, "--device: received 'cuda:2', but torch can use 2, numbered from 0"),
        ("gpu", 2, "--device: received 'gpu', expected auto, cpu, cuda or cuda:N"),
        ("cuda:x", 2, "expected auto, cpu, cuda or cuda:N"),
        ("", 2, "expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, name, gpus, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ConfigError, match=message):
        choose_device(name)


def test_tf32_is_off_where_a_device_was_chosen():
    allow_tf32(True)
    choose_device("cpu")
    assert tf32() == (False, False)


def test_full_precision_is_without_autocast_and_tf32_and_leaves_both_as_they_were():
    allow_tf32(True)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision(torch.device("cpu")):
            assert tf32() == (False, False)
            assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    assert tf32() == (True, True)


@pytest.mark.parametrize(
    ("flags", "emulated"),
    [
        ("flags\t\t: fpu sse2 avx2 fma", True),
        ("flags\t\t: fpu avx512f avx512_bf16", False),
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile", False),
        ("Features\t: fp asimd sve", True),
        ("Features\t: fp asimd sve bf16", False),
        ("model name\t: unknown", False),
    ],
)
def test_bfloat16_without_instructions_for_it_is_known(tmp_path, flags, emulated):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    assert emulates_bfloat16(tmp_path / "cpuinfo") == emulated
    assert not emulates_bfloat16(tmp_path / "missing")
