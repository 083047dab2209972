"""Clip activations to their learned ranges, so that the calibration of a tool chain finds these ranges."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import is_not
from typing import ClassVar, cast

from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import Operation, classify, scoped_name
from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.simulate.fake_quantize import placement
from depth_distill.quantization.target.target import ActivationName, NpuTarget
from depth_distill.suggestions import did_you_mean

_Range = tuple[float, float]

_ANY = (-math.inf, math.inf)
_BOUNDS: dict[ActivationName, _Range] = {
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
}
_CLIPS = ("relu", "relu6", "clip")


@dataclass(frozen=True)
class BakeRanges(Pass):
    """Clip activations to the ranges that a student was trained with, see :func:`bake_ranges`."""

    name: ClassVar[str] = "bake_ranges"
    changes_function: ClassVar[bool] = True  # values beyond a learned range are clipped, as they were in training

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a network without learned ranges."""
        if not context.learned_ranges:
            raise ConfigError("this checkpoint has no activation ranges: train it with FakeQuant")

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`bake_ranges`."""
        baked = bake_ranges(graph, context.target, context.learned_ranges)
        return PassResult(baked, PassReport(f"{len(context.learned_ranges)} learned ranges became clips"))


def bake_ranges(graph_module: fx.GraphModule, target: NpuTarget, ranges: Mapping[str, _Range]) -> fx.GraphModule:
    """A copy in which every activation that the target rounds is clipped to the range that it was trained with.

    Min/max calibration then finds at most that range, and exactly that range if the images reach both ends. A ReLU,
    ReLU6 or clip is replaced by the clip under its own name; elsewhere a clip ``<site>_clip`` is added behind the
    operator. There is no clip that could have no effect: behind a sigmoid, or behind a concat of clipped tensors whose
    ranges lie within its own. The image is not clipped: its range is known, and no operator could absorb the clip.

    Args:
        graph_module: a traced float network, batch norm folded.
        target: NPU, which determines where activations are rounded.
        ranges: (lowest, highest) by site that a student was trained with.

    Raises:
        ConfigError: the network lacks the site of a range, or no value of the network at a site lies in its range.
    """
    baked = copy.deepcopy(graph_module)
    sites = {site.name: site for site in placement(baked, target) if site.kind != "weight"}
    for name in ranges:
        if name not in sites:
            raise ConfigError(f"there is a range of {name}, but no such site; {did_you_mean(name, sites)}")
    range_of = {node: (name, ranges[name]) for name in ranges for node in sites[name].nodes}
    calls = calls_by_module(baked)
    bounds: dict[fx.Node, _Range] = {}
    for node, operation in classify(baked).items():
        bounds[node] = _bounds(node, operation, baked, bounds)
        if node.name not in range_of or operation.kind == "input":
            continue
        name, (low, high) = range_of[node.name]
        if target.activations.symmetric:
            low = max(low, -high)  # a symmetric scale is the larger end over 127, and the lowest code is -128
        inside = (max(low, bounds[node][0]), min(high, bounds[node][1]))
        if inside == bounds[node]:
            continue
        if inside[0] >= inside[1]:
            raise ConfigError(f"the range of {name}, {low:g} to {high:g}, contains no value that the network has there")
        takes_in = operation.activation in _CLIPS and bounds[node] != _ANY
        path = scoped_name(node)
        if not takes_in or node.op != "call_module" or len(calls[path]) > 1:
            path = f"{_free(path, baked)}_clip"
        baked.add_submodule(path, nn.Hardtanh(*inside))
        with baked.graph.inserting_after(node):
            clip = baked.graph.call_module(path, (node.all_input_nodes[0] if takes_in else node,))
        node.replace_all_uses_with(clip, delete_user_cb=partial(is_not, clip))
        if takes_in:
            baked.graph.erase_node(node)
        bounds[clip] = inside
    baked.delete_all_unused_submodules()
    baked.graph.lint()
    baked.recompile()
    return baked


def _bounds(
    node: fx.Node, operation: Operation, graph_module: fx.GraphModule, bounds: Mapping[fx.Node, _Range]
) -> _Range:
    """Bounds on the values of a node."""
    if operation.activation == "clip" and node.op == "call_module":
        module = cast(nn.Hardtanh, graph_module.get_submodule(str(node.target)))
        return module.min_val, module.max_val
    if operation.activation is not None:
        return _BOUNDS.get(operation.activation, _ANY)
    if operation.kind in ("move", "identity", "concat"):
        # Padding adds zeros, which every quantizer range includes.
        sources = [bounds[source] for source in node.all_input_nodes]
        return min(low for low, _ in sources), max(high for _, high in sources)
    return _ANY


def _free(path: str, graph_module: fx.GraphModule) -> str:
    """``path``, numbered if its clip exists already because an operator is called twice in one module."""
    taken = {name for name, _ in graph_module.named_modules()}
    name, count = path, 0
    while f"{name}_clip" in taken:
        count += 1
        name = f"{path}_{count}"
    return name
