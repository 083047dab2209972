"""Learned activation ranges in the float file, so that a tool chain that measures ranges finds these."""

import copy
from collections.abc import Mapping
from functools import partial
from operator import is_not

from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.insert import placement
from depth_distill.quantization.operations import classify
from depth_distill.quantization.record import nearest
from depth_distill.quantization.target import NpuTarget

_CLIPS = ("relu", "relu6", "clip")


def bake_ranges(
    graph_module: fx.GraphModule, target: NpuTarget, ranges: Mapping[str, tuple[float, float]]
) -> fx.GraphModule:
    """A copy that clips to its range what a layer or an addition puts out, with the activation that is fused into it.

    Min/max calibration cannot find more than a range lets through; where calibration reaches both ends, it finds
    exactly that range. A ReLU, ReLU6 or clip *becomes* the clip, so that there is still one rounding. What is neither
    (a sigmoid, a concat of clipped tensors) stays as it is.

    Args:
        graph_module: a traced float network, batch norm folded.
        target: which decides where activations are rounded.
        ranges: (lowest, highest) by site, as a student was trained with.

    Raises:
        ConfigError: a range of a site that the network does not have.
    """
    baked = copy.deepcopy(graph_module)
    sites = {site.name: site for site in placement(baked, target) if site.kind != "weight"}
    for name in ranges:
        if name not in sites:
            raise ConfigError(f"there is a range of {name}, but the network has no such site; {nearest(name, sites)}")
    operations = {node.name: (node, operation) for node, operation in classify(baked).items()}
    for name, (low, high) in ranges.items():
        for node, operation in (operations[each] for each in sites[name].nodes):
            path = f"clips.{node.name}"
            if operation.kind in ("layer", "add"):
                baked.add_submodule(path, nn.Hardtanh(low, high))
                with baked.graph.inserting_after(node):
                    clip = baked.graph.call_module(path, (node,))
                node.replace_all_uses_with(clip, delete_user_cb=partial(is_not, clip))
            elif operation.activation in _CLIPS:
                baked.add_submodule(path, nn.Hardtanh(low if operation.activation == "clip" else 0.0, high))
                with baked.graph.inserting_after(node):
                    node.replace_all_uses_with(baked.graph.call_module(path, (node.all_input_nodes[0],)))
                baked.graph.erase_node(node)
    baked.delete_all_unused_submodules()
    baked.graph.lint()
    baked.recompile()
    return baked
