"""A device that is none: its tensors compute on the CPU, but whatever mixes them with tensors of the CPU is an error.

On a GPU such a mix is an error, too, and ``numpy()`` of a tensor there. Here both are found where there is no GPU.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy", 0)  # a device that torch knows, but has no operators for

# Operators that take tensors of two devices.
_MIXING = ("aten::to", "aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_", "aten::_unsafe_index")


class _Pretended(torch.Tensor):
    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.size(), values.stride(), values.storage_offset(), dtype=values.dtype, device=DEVICE
        )

    def __init__(self, values):
        self.values = values

    def __repr__(self, **_):
        return f"pretended {self.values!r}"

    def tolist(self):
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Tensors that are made on the device, or brought there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, _Pretended)]
    here = [each for each in tensors if not isinstance(each, _Pretended) and each.ndim]
    if there and here and func._schema.name not in _MIXING:
        raise RuntimeError(f"{func}: tensors of two devices: {[tuple(each.shape) for each in here]} are on the CPU")
    devices = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.device)]
    stays = devices[0].type == DEVICE.type if devices else bool(there)
    if func._schema.name == "aten::copy_":
        stays = isinstance(args[0], _Pretended)
    owners = {id(each.values): each for each in there}

    def inner(value):
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value.values if isinstance(value, _Pretended) else value

    def given(value):
        if not isinstance(value, torch.Tensor) or not stays:
            return value
        return owners[id(value)] if id(value) in owners else _Pretended(value)

    args, kwargs = tree_map(inner, (args, kwargs))
    return tree_map(given, func(*args, **kwargs))


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """Within the block, tensors can be on the device that is returned."""
    export, inference_mode = torch.onnx.export, torch.inference_mode
    before = torch._C._only_lift_cpu_tensors(), torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with ExitStack() as stack:
            stack.enter_context(_Mode())
            # Tensors of subclasses cannot be made of others in inference mode.
            stack.enter_context(patch("torch.inference_mode", torch.no_grad))
            stack.enter_context(patch("torch.onnx.export", partial(_elsewhere, export, inference_mode)))
            fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
            stack.enter_context(patch(fused, lambda: [DEVICE.type]))
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(before[0])
        torch.__future__.set_overwrite_module_params_on_conversion(before[1])


def _elsewhere(function, inference_mode, *args, **kwargs):
    """Run what has modes of its own: the exporter, which is given networks on the CPU."""
    with _disable_current_modes(), patch("torch.inference_mode", inference_mode):
        return function(*args, **kwargs)
