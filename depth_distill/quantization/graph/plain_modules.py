"""A copy of a module in which everything that evaluation knows in advance is worked out, so that passes see layers."""

import copy
import warnings
from collections.abc import Callable, Iterator

import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

_STATISTICS = ("weight", "bias", "running_mean", "running_var")
_EXACT = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside the wrappers ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch's OptimizedModule is private
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def plain(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose layers hold the weights that they multiply by; it computes the same.

    Weight and spectral norm, both as hooks and as parametrizations, any other parametrization and pruning masks are
    worked out into weights. A frozen batch norm (torchvision, timm, detectron2) becomes one that can be folded. A
    subclass of a convolution or linear layer that changes no method becomes that layer.
    """
    model = _copy(unwrapped(model)).eval()
    wrapped = [name for name, module in model.named_modules(remove_duplicate=False) if unwrapped(module) is not module]
    for name in reversed(wrapped):  # the innermost first
        model.set_submodule(name, unwrapped(model.get_submodule(name)))
    for module in list(model.modules()):
        _work_out_weights(module)
        base = next((each for each in _EXACT if isinstance(module, each)), None)
        if base is not None and type(module) is not base and _computes_as(type(module), base):
            module.__class__ = base
    replaced: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if name and _is_frozen_norm(module):
            model.set_submodule(name, replaced.setdefault(module, _batch_norm(module)))
    return model


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy, also where a hook has left a computed weight, which Python cannot copy."""
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def _work_out_weights(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        # A copy shares its class with the original, and removing a parametrization takes properties off the class.
        cls = type(module)
        module.__class__ = type(cls.__name__, cls.__bases__, dict(vars(cls)))
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    for name, remove in list(_hooks(module)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that these hooks are deprecated
            remove(module, name)


def _hooks(module: nn.Module) -> Iterator[tuple[str, Callable[[nn.Module, str], object]]]:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield hook.name, remove_weight_norm
        elif isinstance(hook, SpectralNorm):
            yield hook.name, remove_spectral_norm
        elif isinstance(hook, prune.BasePruningMethod):
            yield hook._tensor_name, prune.remove


def _computes_as(cls: type[nn.Module], base: type[nn.Module]) -> bool:
    """Whether a subclass leaves alone what the base class computes with."""
    used = ("forward", "_conv_forward", "_output_padding", "__call__", "__getattr__", "weight", "bias")
    return all(getattr(cls, name, None) is getattr(base, name, None) for name in used)


def _is_frozen_norm(module: nn.Module) -> bool:
    """Classes of this name in torchvision, detectron2, DETR and others are the same, under no common base."""
    named = isinstance(module, FrozenBatchNormAct2d) or type(module).__name__ == "FrozenBatchNorm2d"
    return named and all(isinstance(getattr(module, name, None), Tensor) for name in _STATISTICS)


def _batch_norm(frozen: nn.Module) -> nn.Module:
    weight, bias, mean, variance = (getattr(frozen, name).detach() for name in _STATISTICS)
    eps = float(getattr(frozen, "eps", 1e-5))
    norm: nn.BatchNorm2d = nn.BatchNorm2d(len(weight), eps, device=weight.device, dtype=weight.dtype)
    if isinstance(frozen, FrozenBatchNormAct2d):
        norm = BatchNormAct2d(len(weight), eps, device=weight.device, dtype=weight.dtype)
        norm.drop, norm.act = frozen.drop, frozen.act
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
    norm.running_mean, norm.running_var = mean.clone(), variance.clone()
    return norm.requires_grad_(False).eval()
