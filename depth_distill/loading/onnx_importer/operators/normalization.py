"""Normalizations."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.loading.onnx_importer.builder import GraphBuilder, as_parameter, as_tensor, converts
from depth_distill.loading.onnx_importer.nodes import Node

_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


@converts("BatchNormalization")
def batch_norm(node: Node, build: GraphBuilder) -> fx.Node:
    """A batch norm with the statistics of the file."""
    if node.attributes.get("training_mode", 0):
        raise build.refusal(node, "it is in training mode: export the network in eval mode")
    source = build.value(node)
    weight = build.parameter(node, 1, "scale")
    layer = _BATCH_NORMS[len(build.shape(source))](
        len(weight), node.attributes.get("epsilon", 1e-5), 1 - node.attributes.get("momentum", 0.9), device="meta"
    )
    layer.weight = weight
    layer.bias = build.parameter(node, 2, "bias")
    layer.running_mean = as_tensor(build.constant(node, 3, "mean"))
    layer.running_var = as_tensor(build.constant(node, 4, "variance"))
    layer.num_batches_tracked = torch.tensor(0)
    return build.module(layer, source, node)


@converts("ChannelAffine")
def channel_affine(node: Node, build: GraphBuilder) -> fx.Node:
    """A factor and a shift per channel, on top of the batch norm before them if there is one."""
    source = build.value(node)
    factor, shift = node.attributes["factor"], node.attributes["shift"]
    rank, channels = len(build.shape(source)), len(factor)
    mean, variance = np.zeros(channels), np.ones(channels)
    if len(node.inputs) > 1:
        scale, bias, mean, variance = (build.constant(node, place, "constant") for place in range(1, 5))
        factor, shift = factor * scale, factor * bias + shift
    layer = _BATCH_NORMS[rank](channels, node.attributes["epsilon"], device="meta")
    layer.weight, layer.bias = (as_parameter(each.astype(np.float32)) for each in (factor, shift))
    layer.running_mean, layer.running_var = (as_tensor(each.astype(np.float32)) for each in (mean, variance))
    layer.num_batches_tracked = torch.tensor(0)
    return build.module(layer, source, node)


@converts("InstanceNormalization")
def instance_norm(node: Node, build: GraphBuilder) -> fx.Node:
    """An instance norm with its affine."""
    source = build.value(node)
    weight = build.parameter(node, 1, "scale")
    layer = _INSTANCE_NORMS[len(build.shape(source))](
        len(weight), node.attributes.get("epsilon", 1e-5), affine=True, device="meta"
    )
    layer.weight, layer.bias = weight, build.parameter(node, 2, "bias")
    return build.module(layer, source, node)


@converts("GroupNormalization")
def group_norm(node: Node, build: GraphBuilder) -> fx.Node:
    """Before opset 21 there is one scale per group, from then on one per channel."""
    source = build.value(node)
    channels, groups = build.shape(source)[1], node.attributes["num_groups"]
    scale, bias = build.constant(node, 1, "scale"), build.constant(node, 2, "bias")
    if len(scale) == groups != channels:
        scale, bias = np.repeat(scale, channels // groups), np.repeat(bias, channels // groups)
    layer = nn.GroupNorm(groups, channels, node.attributes.get("epsilon", 1e-5), device="meta")
    layer.weight, layer.bias = as_parameter(scale), as_parameter(bias)
    return build.module(layer, source, node)


@converts("LayerNormalization")
def layer_norm(node: Node, build: GraphBuilder) -> fx.Node:
    """A layer norm over the last axes."""
    source = build.value(node)
    shape = build.shape(source)
    normalized = shape[node.attributes.get("axis", -1) % len(shape) :]
    scale = np.broadcast_to(build.constant(node, 1, "scale"), normalized)
    bias = np.broadcast_to(build.constant(node, 2, "bias"), normalized) if build.has(node, 2) else None
    layer = nn.LayerNorm(normalized, node.attributes.get("epsilon", 1e-5), bias=bias is not None, device="meta")
    layer.weight = as_parameter(scale.copy())
    if bias is not None:
        layer.bias = as_parameter(bias.copy())
    return build.module(layer, source, node)


@converts("LpNormalization")
def lp_norm(node: Node, build: GraphBuilder) -> fx.Node:
    """Vectors of length 1; where the norm is 0, both give 0."""
    power, axis = node.attributes.get("p", 2), node.attributes.get("axis", -1)
    return build.call(F.normalize, build.value(node), float(power), axis, 0.0 if power == 0 else 1e-30)


@converts("LRN")
def local_response_norm(node: Node, build: GraphBuilder) -> fx.Node:
    """Normalization across channels."""
    size = node.attributes["size"]
    if size % 2 == 0:
        raise build.refusal(node, f"size {size} is even, expected an odd number of channels")
    defaults = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    settings = [node.attributes.get(name, default) for name, default in defaults.items()]
    return build.module(nn.LocalResponseNorm(size, *settings), build.value(node), node)


@converts("MeanVarianceNormalization")
def mean_variance_norm(node: Node, build: GraphBuilder) -> fx.Node:
    """Zero mean and unit variance over some axes."""
    source = build.value(node)
    axes = tuple(node.attributes.get("axes", (0, 2, 3)))
    centred = build.call(torch.sub, source, build.call(torch.mean, source, axes, keepdim=True))
    variance = build.call(torch.mean, build.call(torch.mul, centred, centred), axes, keepdim=True)
    return build.call(torch.div, centred, build.call(torch.add, build.call(torch.sqrt, variance), 1e-9))


@converts("Softmax", "LogSoftmax")
def softmax(node: Node, build: GraphBuilder) -> fx.Node:
    """Before opset 13, the axis starts a flattened rest over which the sum goes."""
    cls = nn.Softmax if node.operator == "Softmax" else nn.LogSoftmax
    source = build.value(node)
    shape = build.shape(source)
    if build.opset >= 13:
        return build.module(cls(node.attributes.get("axis", -1) % len(shape)), source, node)
    axis = node.attributes.get("axis", 1) % len(shape)
    if math.prod(shape[axis + 1 :]) == 1:
        return build.module(cls(axis), source, node)
    flat = build.reshape(source, (*shape[:axis], math.prod(shape[axis:])))
    return build.reshape(build.module(cls(axis), flat, node), shape)
