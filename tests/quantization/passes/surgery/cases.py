"""Small networks for surgery, run through the runner of recipes as every command does."""

import torch
from torch import nn

from depth_distill.codecs import DepthRange, HostSingle
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Preparer, structure_only
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.target.target import load_target
from tests.quantization.networks import assert_untouched, state_of

TARGET = load_target("per-tensor-minmax")
SIZE = 16


def images(size=SIZE, count=8):
    """Smooth noise: interpolation and padding act on it as on pictures."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, size // 2, size // 2, generator=generator)
    return nn.functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)


def context(batches=None, size=SIZE, target=TARGET):
    layout = InputLayout(size, size, (0.0,) * 3, (1.0,) * 3)
    codec = HostSingle(DepthRange(0.5, 15.0), "log")
    return Context(target, images(size).split(4) if batches is None else batches, Interface.of_codes(layout, codec))


def prepare(network, *entries, size=SIZE, target=TARGET):
    """The network behind a recipe; the network is untouched, and a structure without images fits its state."""
    network = network.eval()
    before = state_of(network)
    recipe = Recipe.from_entries(list(entries))
    prepared = Preparer(network, context(size=size, target=target))(recipe)
    assert_untouched(network, before)
    shaped = Preparer(network, context((), size, target), structure_only)(recipe).graph
    shaped.load_state_dict(prepared.graph.state_dict())
    assert torch.equal(shaped(images(size)), prepared.graph(images(size)))
    # Every site is placed and calibrated, and the quantized network is near the float one.
    image = images(size)
    with torch.no_grad():
        expected, found = prepared.graph(image), prepared.quantized(image)
    assert (expected - found).abs().mean() < 0.1 * expected.std().clamp(min=1e-3)
    return prepared


def outputs(network, prepared, size=SIZE):
    with torch.no_grad():
        return trace(network.eval())(images(size)), prepared.graph(images(size))


def moved(network, prepared, size=SIZE):
    """Largest difference that the passes made, relative to the largest output."""
    before, after = outputs(network, prepared, size)
    return float((before - after).abs().max() / before.abs().max())


def deviation(network, prepared, size=SIZE):
    """Mean difference relative to the range of the output: what a report should say."""
    before, after = outputs(network, prepared, size)
    return float((before - after).abs().mean() / (before.max() - before.min()))


def kinds(graph_module):
    """Names of classes of the modules, and names of the functions, that a graph calls, in order."""
    modules = dict(graph_module.named_modules())
    return [
        type(modules[node.target]).__name__
        if node.op == "call_module"
        else getattr(node.target, "__name__", node.target)
        for node in graph_module.graph.nodes
        if node.op.startswith("call")
    ]
