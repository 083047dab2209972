"""Activations: modules, so that every one has a name."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.loading.onnx_importer.builder import GraphBuilder, as_parameter, converts
from depth_distill.loading.onnx_importer.nodes import Node

_SIXTH = 1 / 6
_SELU = (1.6732632423543772, 1.0507009873554805)  # Klambauer et al. 2017, alpha and lambda


@converts("Relu", "Sigmoid", "Tanh", "Softsign", "Softplus", "Mish", "Silu", "HardSwish", "HardSigmoidOfTorch")
def plain(node: Node, build: GraphBuilder) -> fx.Node:
    """Activations without settings."""
    modules: dict[str, nn.Module] = {
        "Relu": nn.ReLU(),
        "Sigmoid": nn.Sigmoid(),
        "Tanh": nn.Tanh(),
        "Softsign": nn.Softsign(),
        "Softplus": nn.Softplus(),
        "Mish": nn.Mish(),
        "Silu": nn.SiLU(),
        "HardSwish": nn.Hardswish(),
        "HardSigmoidOfTorch": nn.Hardsigmoid(),
    }
    return build.module(modules[node.operator], build.value(node), node)


@converts("LeakyRelu")
def leaky_relu(node: Node, build: GraphBuilder) -> fx.Node:
    """A leaky ReLU."""
    return build.module(nn.LeakyReLU(node.attributes.get("alpha", 0.01)), build.value(node), node)


@converts("PRelu")
def prelu(node: Node, build: GraphBuilder) -> fx.Node:
    """One slope, or one per channel; other shapes of slopes are arithmetic."""
    source = build.value(node)
    slope = build.constants.get(node.inputs[1])
    rank = len(build.shape(source))
    if slope is not None:
        shape = (1,) * (rank - slope.ndim) + slope.shape
        if slope.size == 1 or (rank > 1 and slope.size == shape[1] == build.shape(source)[1]):
            layer = nn.PReLU(slope.size, device="meta")
            layer.weight = as_parameter(slope.reshape(-1))
            return build.module(layer, source, node)
    negative = build.call(torch.clamp, source, max=0.0)
    return build.call(torch.add, build.call(F.relu, source), build.call(torch.mul, negative, build.value(node, 1)))


@converts("Elu", "Celu")
def elu(node: Node, build: GraphBuilder) -> fx.Node:
    """ELU and CELU."""
    cls = nn.ELU if node.operator == "Elu" else nn.CELU
    return build.module(cls(node.attributes.get("alpha", 1.0)), build.value(node), node)


@converts("Selu")
def selu(node: Node, build: GraphBuilder) -> fx.Node:
    """SELU with the constants of its paper, or any other."""
    alpha, gamma = node.attributes.get("alpha", _SELU[0]), node.attributes.get("gamma", _SELU[1])
    source = build.value(node)
    if abs(alpha - _SELU[0]) < 1e-6 and abs(gamma - _SELU[1]) < 1e-6:
        return build.module(nn.SELU(), source, node)
    return build.call(torch.mul, build.module(nn.ELU(alpha), source, node), gamma)


@converts("HardSigmoid")
def hard_sigmoid(node: Node, build: GraphBuilder) -> fx.Node:
    """Torch's has a slope of 1/6; any other is arithmetic."""
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    source = build.value(node)
    if abs(alpha - _SIXTH) < 1e-6 and beta == 0.5:
        return build.module(nn.Hardsigmoid(), source, node)
    scaled = build.call(torch.add, build.call(torch.mul, source, alpha), beta)
    return build.module(nn.Hardtanh(0.0, 1.0), scaled, node)


@converts("Gelu", "com.microsoft.Gelu", "com.microsoft.FastGelu")
def gelu(node: Node, build: GraphBuilder) -> fx.Node:
    """GELU, exact or by tanh."""
    approximate = node.attributes.get("approximate", "none")
    if node.operator == "com.microsoft.FastGelu":
        if build.has(node, 1):
            raise build.refusal(node, "it has a bias, expected none")
        approximate = "tanh"
    return build.module(nn.GELU(approximate), build.value(node), node)


@converts("com.microsoft.QuickGelu")
def quick_gelu(node: Node, build: GraphBuilder) -> fx.Node:
    """``x * sigmoid(alpha x)``."""
    source = build.value(node)
    gate = build.module(nn.Sigmoid(), build.call(torch.mul, source, node.attributes.get("alpha", 1.702)), node)
    return build.call(torch.mul, source, gate)


@converts("Clip")
def clip(node: Node, build: GraphBuilder) -> fx.Node:
    """A ReLU or ReLU6 where the limits are theirs."""
    low, high = (_limit(node, build, position, name) for position, name in ((1, "min"), (2, "max")))
    source = build.value(node)
    low = None if low is not None and low <= np.finfo(np.float32).min else low
    high = None if high is not None and high >= np.finfo(np.float32).max else high
    if not build.dtype(source).is_floating_point:
        return source if low is high is None else build.call(torch.clamp, source, low, high)
    if low is None and high is None:
        return source
    if low == 0 and high is None:
        return build.module(nn.ReLU(), source, node)
    if low == 0 and high == 6:
        return build.module(nn.ReLU6(), source, node)
    if low is not None and high is not None and low < high:
        return build.module(nn.Hardtanh(float(low), float(high)), source, node)
    return build.call(torch.clamp, source, low, high)


@converts("ThresholdedRelu")
def thresholded_relu(node: Node, build: GraphBuilder) -> fx.Node:
    """Zero up to a threshold, unchanged above it."""
    return build.module(nn.Threshold(node.attributes.get("alpha", 1.0), 0.0), build.value(node), node)


def _limit(node: Node, build: GraphBuilder, position: int, name: str) -> Any:
    limit = build.setting(node, position, name, f"limit {name}")
    return None if limit is None or limit.size == 0 else limit.reshape(()).item()
