"""Write bilinear and bicubic upsampling as nearest upsampling and a depthwise convolution."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import is_not
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from depth_distill.quantization.graph.node_kinds import argument
from depth_distill.quantization.passes.base import Context, PassResult
from depth_distill.quantization.passes.surgery.edits import (
    erase,
    finish,
    free_name,
    module_of,
    parameter_like,
    place_of,
)
from depth_distill.quantization.passes.surgery.measure import Shape, shapes
from depth_distill.quantization.passes.surgery.phases import interpolation, nearest_kernel
from depth_distill.quantization.passes.surgery.surgery import Changes, Surgery

_MODES = ("bilinear", "bicubic")


@dataclass(frozen=True)
class NearestUpsampling(Surgery):
    """Replace bilinear and bicubic upsampling by nearest and a convolution, see :func:`nearest_upsampling`."""

    name: ClassVar[str] = "nearest_upsampling"

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`nearest_upsampling`."""
        changed, changes = nearest_upsampling(graph, context)
        return PassResult(changed, changes.report("upsamplings became nearest with a depthwise convolution"))


@dataclass(frozen=True)
class _Resize:
    """Arguments of an interpolation, and its factors of height and width; None where these are not whole."""

    mode: str
    align_corners: bool
    antialias: bool
    factors: tuple[int, int] | None
    from_one_pixel: bool
    sizes: str


def nearest_upsampling(graph_module: fx.GraphModule, context: Context) -> tuple[fx.GraphModule, Changes]:
    """A copy that upsamples by nearest neighbours only, and what became of each upsampling.

    Bilinear and bicubic upsampling by whole factors is nearest upsampling and a depthwise kernel ``<name>_smooth``
    behind it, 3 x 3 for bilinear by 2: ``[1, 2, 1] / 4`` in both directions. That is exact, but for a border half as
    wide as the kernel, where the convolution pads with zeros and interpolation repeats the edge. With
    ``align_corners=True`` the grid is another, and the kernel that of ``align_corners=False``. From a single pixel
    every mode is nearest, exactly.

    Args:
        graph_module: a traced network.
        context: gives the size of the images, as factors may depend on it.
    """
    changed = copy.deepcopy(graph_module)
    shape_of = shapes(changed, context)
    done: dict[str, str] = {}
    left: dict[str, str] = {}
    resizes = {node: _resize(changed, node, shape_of) for node in changed.graph.nodes}
    places = {node: place_of(node) for node, resize in resizes.items() if resize is not None}
    for node, place in places.items():
        resize = resizes[node]
        assert resize is not None
        if resize.from_one_pixel:
            _make_nearest(changed, node, None)
            done[place] = f"{resize.mode} from a single pixel became nearest"
        elif resize.factors is None:
            left[place] = f"{resize.mode} {resize.sizes} is not by whole factors"
        elif resize.antialias:
            left[place] = f"{resize.mode} with antialias"
        else:
            name = free_name(changed, f"{place}_smooth")
            changed.add_submodule(name, _kernel(resize, shape_of[node][1], parameter_like(changed)))
            _make_nearest(changed, node, resize.factors)
            with changed.graph.inserting_after(node):
                smooth = changed.graph.call_module(name, (node,))
            smooth.meta = copy.copy(node.meta)
            node.replace_all_uses_with(smooth, delete_user_cb=partial(is_not, smooth))
            factors = " x ".join(map(str, resize.factors))
            done[place] = f"{resize.mode} by {factors} became nearest and {name}"
            done[place] += ", an approximation of align_corners" if resize.align_corners else ""
    return finish(changed), Changes(done, left)


def _resize(graph_module: fx.GraphModule, node: fx.Node, shape_of: Mapping[fx.Node, Shape]) -> _Resize | None:
    module = module_of(graph_module, node)
    if isinstance(module, nn.Upsample):
        mode, align_corners, antialias = module.mode, bool(module.align_corners), False
    elif node.op == "call_function" and node.target in (F.interpolate, F.upsample):
        mode, align_corners = argument(node, 3, "mode", "nearest"), bool(argument(node, 4, "align_corners"))
        antialias = bool(argument(node, 6, "antialias", False))
    else:
        return None
    if mode not in _MODES:
        return None
    before, after = shape_of[node.all_input_nodes[0]][2:], shape_of[node][2:]
    whole = all(not large % small for large, small in zip(after, before, strict=True)) and after != before
    factors = (after[0] // before[0], after[1] // before[1]) if whole else None
    sizes = f"from {before[0]} x {before[1]} to {after[0]} x {after[1]}"
    return _Resize(mode, align_corners, antialias, factors, before == (1, 1) != after, sizes)


def _make_nearest(graph_module: fx.GraphModule, node: fx.Node, factors: tuple[int, int] | None) -> None:
    """Let a node upsample by nearest neighbours: by these factors, or to the size that it has."""
    module = module_of(graph_module, node)
    if module is not None:
        assert isinstance(module, nn.Upsample)
        size, scale = (module.size, module.scale_factor) if factors is None else (None, _scale(factors))
        name = str(node.target)
        if sum(each.target == name for each in graph_module.graph.nodes) > 1:  # others may have other factors
            name = free_name(graph_module, f"{name}_nearest")
        graph_module.add_submodule(name, nn.Upsample(size, scale, mode="nearest"))
        node.target = name
        return
    before = node.all_input_nodes
    size, scale = argument(node, 1, "size"), argument(node, 2, "scale_factor")
    arguments = {"size": size, "scale_factor": scale} if factors is None else {"scale_factor": _scale(factors)}
    kept = {key: value for key, value in arguments.items() if value is not None}
    node.target, node.args, node.kwargs = F.interpolate, (node.args[0],), {**kept, "mode": "nearest"}
    for each in before:
        erase(each)


def _scale(factors: tuple[int, int]) -> float | tuple[float, float]:
    height, width = map(float, factors)
    return height if height == width else (height, width)


def _kernel(resize: _Resize, channels: int, like: Tensor) -> nn.Conv2d:
    assert resize.factors is not None
    rows, columns = (_kernel_1d(factor, resize.mode) for factor in resize.factors)
    padding = (len(rows) // 2, len(columns) // 2)
    window = (len(rows), len(columns))
    kernel = nn.Conv2d(channels, channels, window, padding=padding, groups=channels, bias=False)
    kernel.weight = nn.Parameter(torch.outer(rows, columns).expand(channels, 1, -1, -1).to(like).contiguous())
    return kernel


def _kernel_1d(factor: int, mode: str) -> Tensor:
    """``[1, 2, 1] / 4`` for bilinear by 2."""
    # Interpolation is a window of 2 (bilinear) or 4 (bicubic) inputs, of which nearest upsampling is 1.
    margin = factor // 2 if mode == "bilinear" else 3 * factor // 2
    taps = partial(interpolation, factor, mode)
    return nearest_kernel(taps, factor, margin if factor > 1 else 0)[0][:, 0]
