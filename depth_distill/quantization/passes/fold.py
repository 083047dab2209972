"""Batch norm folding: merge every batch norm into the layer before it."""

import copy
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.graph.weights import float_norms
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Fold(Pass):
    """Merge every batch norm into the layer before it, see :func:`fold`."""

    name: ClassVar[str] = "fold"

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`fold`."""
        count = sum(isinstance(module, _BatchNorm) for module in graph.modules())
        summary, values = f"{count} batch norms folded", {"batch_norms": count}
        left = float_norms(graph)
        if left:
            summary += f"; in float between two roundings: {', '.join(f'{n} {name}' for name, n in left.items())}"
        return PassResult(fold(graph), PassReport(summary, {**values, **({"in_float": left} if left else {})}))


def fold(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy of the network in which every batch norm is part of the layer before it (Jacob et al. 2018, eq. 14).

    With ``k = gamma / sqrt(var + eps)``: ``weight * k`` and ``(bias - mean) * k + beta``, computed in float64. The
    batch norm is replaced by its activation (timm's ``BatchNormAct2d``) or an ``nn.Identity`` of the same name, so that
    hooks by name still work.

    A 2-d batch norm that does not directly follow a conv or linear layer as its only reader (the identity branch of
    RepVGG, the pre-activation of DenseNet) becomes an equivalent depthwise 1 x 1 convolution ``<name>_affine``.
    Networks with re-parameterizable blocks (RepVGG, MobileOne) become smaller with
    ``fold(trace(timm.utils.reparameterize_model(model)))``: one convolution per block.

    Raises:
        ConfigError: a batch norm has no running statistics, is functional, or is a 1-d or 3-d one that cannot be folded
            into a layer.
    """
    folded = copy.deepcopy(graph_module)
    calls = calls_by_module(folded)
    for node in folded.graph.nodes:
        if node.op == "call_function" and node.target in (F.batch_norm, torch.batch_norm):
            raise ConfigError(f"{node.name} is a functional batch norm and cannot be folded; use nn.BatchNorm2d")
    for name in calls:
        batch_norm = folded.get_submodule(name)
        if not isinstance(batch_norm, _BatchNorm):
            continue
        if batch_norm.running_mean is None:
            raise ConfigError(f"{name} has no running statistics (track_running_stats=False) and cannot be folded")
        before = {_layer_before(node, folded, calls) for node in calls[name]}
        if None in before:
            _make_convolution(folded, name, calls[name])
        else:
            for layer in before:
                fold_affine(cast(Layer, folded.get_submodule(str(layer))), *_factors(batch_norm))
        activation = batch_norm.act if isinstance(batch_norm, BatchNormAct2d) else nn.Identity()
        folded.set_submodule(name, activation)
    folded.delete_all_unused_submodules()
    folded.graph.lint()
    folded.recompile()
    return folded


def _layer_before(node: fx.Node, graph_module: fx.GraphModule, calls: dict[str, list[fx.Node]]) -> str | None:
    """Name of the layer whose outputs are read by this batch norm only; None if there is none."""
    before = node.all_input_nodes[0]
    if before.op != "call_module":
        return None
    name = str(before.target)
    if type(graph_module.get_submodule(name)) not in _LAYERS:  # a subclass may normalize its weight
        return None
    users = [user for call in calls[name] for user in call.users]
    return name if all(user.target == node.target for user in users) else None


def _factors(batch_norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """``k`` and ``beta - mean * k`` of the batch norm ``y = k x + (beta - mean k)``, both ``(C,)`` float64."""
    mean, variance = cast(Tensor, batch_norm.running_mean).double(), cast(Tensor, batch_norm.running_var).double()
    factor = torch.rsqrt(variance + batch_norm.eps)
    shift = -mean * factor
    if batch_norm.affine:
        factor = factor * batch_norm.weight.detach().double()
        shift = -mean * factor + batch_norm.bias.detach().double()
    return factor, shift


def fold_affine(layer: Layer, factor: Tensor, shift: Tensor) -> None:
    """Let a layer return ``factor * y + shift`` instead of its output ``y``, in place; both ``(C,)`` float64."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        # (in, out / groups, kh, kw): output channel g * (out / groups) + j lies in rows of group g, column j.
        rows = factor.view(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1)
        scaled = weight * rows.reshape(weight.shape[0], -1, 1, 1)
    else:
        scaled = weight * factor.view(-1, *[1] * (weight.ndim - 1))
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach().double() * factor
    trainable = layer.weight.requires_grad
    layer.weight = nn.Parameter(scaled.to(weight.dtype), trainable)
    layer.bias = nn.Parameter((bias + shift).to(weight.dtype), trainable)


def _make_convolution(graph_module: fx.GraphModule, name: str, calls: list[fx.Node]) -> None:
    """Put a depthwise 1 x 1 convolution in front of each call of the batch norm ``name``."""
    batch_norm = cast(_BatchNorm, graph_module.get_submodule(name))
    if not isinstance(batch_norm, nn.BatchNorm2d):
        raise ConfigError(
            f"{name} is a {type(batch_norm).__name__} that does not directly follow a conv or linear layer as its only "
            "reader: it can neither be folded nor replaced by a convolution"
        )
    factor, shift = _factors(batch_norm)
    affine = depthwise_affine(factor, shift, cast(Tensor, batch_norm.running_mean))
    affine.train(batch_norm.training)
    graph_module.add_submodule(f"{name}_affine", affine)
    for node in calls:
        with node.graph.inserting_before(node):
            convolution = node.graph.call_module(f"{name}_affine", (node.all_input_nodes[0],))
        node.replace_input_with(node.all_input_nodes[0], convolution)


def depthwise_affine(factor: Tensor, shift: Tensor, like: Tensor) -> nn.Conv2d:
    """A depthwise 1 x 1 convolution ``factor * x + shift`` of the device and type of ``like``."""
    channels = len(factor)
    affine = nn.Conv2d(channels, channels, 1, groups=channels, device=like.device, dtype=like.dtype)
    affine.weight = nn.Parameter(factor.view(-1, 1, 1, 1).to(like))
    affine.bias = nn.Parameter(shift.to(like))
    return affine
