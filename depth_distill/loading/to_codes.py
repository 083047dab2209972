"""Edits that turn the graph of somebody else's network into one from a normalized RGB image to codes.

All of them are exact: factors and offsets go into the last convolution, colour order into the first, wherever the
operators between are linear; only where they are not, a 1 x 1 convolution is added.
"""

import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depth_distill.errors import ConfigError
from depth_distill.loading.meaning import Affine
from depth_distill.loading.output_tail import RANK_CHANGES, averages, called, module_of, step_back

_CODES, _CLIP, _RGB, _RESIZE = "to_codes", "clip_codes", "from_rgb", "to_image_size"
_TOLERANCE = 1e-4  # of the largest code
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_IDENTITY = Affine(1.0, 0.0, False)


def select_output(graph_module: fx.GraphModule, paths: Sequence[Sequence[Any]], together: bool = True) -> None:
    """Return what the paths lead to, and remove all that it does not need, such as other heads.

    Args:
        graph_module: a traced network; edited in place.
        paths: the steps into what the network returns, a path for each output: indices, keys, attributes.
        together: whether several outputs are concatenated over channels; otherwise they are a tuple.

    Raises:
        ConfigError: a step leads nowhere; the message lists what there is.
    """
    graph = graph_module.graph
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        chosen = [_follow(output.args[0], path, graph) for path in paths]
        value: Any = chosen[0] if len(chosen) == 1 else tuple(chosen)
        if together and len(chosen) > 1:
            value = graph.call_function(torch.cat, (chosen, 1))
    output.args = (value,)
    graph.eliminate_dead_code(_has_to_stay)
    graph_module.delete_all_unused_submodules()
    _delete_unused_attributes(graph_module)
    graph.lint()
    graph_module.recompile()


def bring_to_codes(graph_module: fx.GraphModule, affine: Affine) -> str:
    """Make the network return ``affine`` of its output, in place; returns how, in words.

    Walking back from the output, factors and offsets are collected and put into the last convolution, linear layer or
    batch norm. A sigmoid in between turns ``1 - sigmoid(x)`` into ``sigmoid(-x)``; a ReLU in between is dropped where
    the clip to [0, 1] does its work. Behind anything else a 1 x 1 convolution is added.
    """
    if affine == _IDENTITY:
        return "the output is codes"
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    place, reader = cast(fx.Node, output.args[0]), output
    left, dropped = affine, list[fx.Node]()
    passed: list[fx.Node] = []
    while len(place.users) == 1:
        averaged = any(averages(node, graph_module) for node in passed)
        step = step_back(place, left, averaged, graph_module)
        if step is None:
            break
        passed.append(place)
        reader = place
        place, left, drop = step
        dropped += drop
    if left[:2] == _IDENTITY[:2]:
        how = "factors behind the last activation are taken out: its output is codes"
    elif _foldable(place, graph_module):
        layer = graph_module.get_submodule(str(place.target))
        _scale(layer, left.scale, left.offset)
        how = f"folded into {place.target}"
    else:
        if any(called(node) in RANK_CHANGES for node in passed):  # no channels here yet
            place, reader, left, dropped = cast(fx.Node, output.args[0]), output, affine, []
        _append(graph_module, place, reader, left)
        how = f"a 1 x 1 convolution behind {place.name}"
    for node in dropped:
        node.replace_all_uses_with(node.all_input_nodes[0])
        graph_module.graph.erase_node(node)
    if affine.clip:
        _clip(graph_module)
    graph_module.delete_all_unused_submodules()
    graph_module.graph.lint()
    graph_module.recompile()
    return how


def take_bgr(graph_module: fx.GraphModule) -> str:
    """Make a network that was trained on BGR images take RGB ones, in place; returns how, in words."""
    (image,) = (node for node in graph_module.graph.nodes if node.op == "placeholder")
    readers = list(image.users)
    if all(_takes_all_channels(node, graph_module) for node in readers):
        for node in readers:
            layer = graph_module.get_submodule(str(node.target))
            weight = cast(nn.Parameter, layer.weight)
            layer.weight = nn.Parameter(weight.detach().flip(1).contiguous(), weight.requires_grad)
        return "colour order folded into " + ", ".join(str(node.target) for node in readers)
    swap = nn.Conv2d(3, 3, 1, bias=False)
    swap.weight = nn.Parameter(torch.eye(3).flip(0).view(3, 3, 1, 1))
    graph_module.add_submodule(_RGB, swap)
    with graph_module.graph.inserting_after(image):
        swapped = graph_module.graph.call_module(_RGB, (image,))
    image.replace_all_uses_with(swapped, delete_user_cb=lambda user: user is not swapped)
    graph_module.recompile()
    return f"colour order by a 1 x 1 convolution {_RGB}"


def as_maps(output: Tensor, size: Sequence[int], resize: str | None) -> Tensor:
    """What :func:`fit_shape` makes of an output: ``(B, C, H, W)``, enlarged where that is asked for."""
    maps = output[:, None] if output.ndim == 3 else output
    if resize is None or tuple(maps.shape[-2:]) == tuple(size):
        return maps
    align = None if resize == "nearest" else False
    return F.interpolate(maps, size=list(size), mode=resize, align_corners=align)


def fit_shape(
    graph_module: fx.GraphModule, found: object, size: tuple[int, int], channels: int, resize: str | None
) -> None:
    """Make the network return maps ``(B, channels, H, W)`` of the image's size, in place.

    Args:
        graph_module: graph from images to one tensor.
        found: what it returned for an image.
        size: (height, width) of that image.
        channels: number of codes.
        resize: ``nearest`` or ``bilinear`` where a smaller output shall be enlarged.

    Raises:
        ConfigError: the output has another number of dimensions, channels, or another size.
    """
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    if not isinstance(found, Tensor):
        raise ConfigError(f"output: leads to a {type(found).__name__}, expected a tensor: give a longer path")
    shape = tuple(found.shape)
    value = cast(fx.Node, output.args[0])
    with graph_module.graph.inserting_before(output):
        if len(shape) == 3:
            value = graph_module.graph.call_function(torch.unsqueeze, (value, 1))
            shape = (shape[0], 1, *shape[1:])
        if len(shape) != 4 or shape[1] != channels:
            raise ConfigError(
                f"output: leads to a tensor of the shape {shape}, expected (B, {channels}, H, W)"
                + ("; the meaning says how many codes there are" if len(shape) == 4 else "")
            )
        if shape[-2:] != size:
            factors = [whole / part for whole, part in zip(size, shape[-2:], strict=True)]
            if resize is None:
                raise ConfigError(
                    f"output: has {shape[-2]} x {shape[-1]} pixels for an image of {size[0]} x {size[1]}: choose "
                    "another output, or give resize: nearest or bilinear, which enlarges it inside the network"
                )
            if resize == "bilinear":
                enlarge: nn.Module = nn.Upsample(scale_factor=tuple(factors), mode="bilinear", align_corners=False)
            else:
                enlarge = nn.Upsample(scale_factor=tuple(factors), mode="nearest")
            graph_module.add_submodule(_RESIZE, enlarge)
            value = graph_module.graph.call_module(_RESIZE, (value,))
    output.args = (value,)
    graph_module.recompile()


def _has_to_stay(node: fx.Node) -> bool:
    return node.op in ("placeholder", "output") or node.target is operator.setitem


def _delete_unused_attributes(graph_module: fx.GraphModule) -> None:
    """Parameters and buffers of the network itself that only removed parts have read."""
    read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    for path, module in list(graph_module.named_modules()):
        if any(path == name or path.startswith(f"{name}.") for name in called):
            continue
        for store in (module._parameters, module._buffers):
            for name in list(store):
                if (f"{path}.{name}" if path else name) not in read:
                    del store[name]


def _follow(value: Any, path: Sequence[Any], graph: fx.Graph) -> fx.Node:
    for depth, step in enumerate(path):
        if isinstance(value, fx.Node):
            value = graph.call_function(operator.getitem, (value, step))
        elif isinstance(value, dict):
            if step not in value:
                raise ConfigError(f"output: there is no key {step!r}; the network returns {_listed(value)}")
            value = value[step]
        elif isinstance(value, list | tuple):
            if not isinstance(step, int) or not -len(value) <= step < len(value):
                raise ConfigError(
                    f"output: step {depth + 1} is {step!r}, but there the network returns a {type(value).__name__} of "
                    f"{len(value)}: give an index"
                )
            value = value[step]
        else:
            raise ConfigError(f"output: step {depth + 1}, {step!r}, leads into {value!r}, which is no tensor")
    if not isinstance(value, fx.Node):
        raise ConfigError(
            f"output: the network returns {_listed(value)}; give the path to one tensor, as output: [...]"
        )
    return value


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        keys = [list(key) if isinstance(key, tuple) else key for key in value]
        return f"a dict with the keys {', '.join(map(str, keys))}"
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, list | tuple) else repr(value)


def require_same(graph_module: fx.GraphModule, image: Tensor, codes: Tensor) -> None:
    """Check that a graph gives these codes for an image, after the edits of this module.

    Raises:
        ConfigError: it does not.
    """
    if not bool(codes.isfinite().all()):
        return  # a network that is not trained may overflow; what it says then proves nothing
    with torch.inference_mode():
        difference = float((graph_module(image) - codes).abs().max() / codes.abs().max().clamp(min=1e-30))
    if not difference <= _TOLERANCE:
        raise ConfigError(
            f"bringing the output to codes changed it by {difference:.3g} of the largest code, allowed is "
            f"{_TOLERANCE:g}: bring in the network's ONNX file, and please report this network"
        )


def _foldable(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Whether a node is a layer whose weight and bias can change: nothing else uses them, and nothing else reads it."""
    module = module_of(node, graph_module)
    plain = type(module) in _LAYERS or (isinstance(module, _BatchNorm) and module.affine and not hasattr(module, "act"))
    return plain and len(node.users) == 1 and _is_used_once(node, graph_module)


def _takes_all_channels(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Whether a node is a convolution whose input channels can change places: nothing else uses its weight."""
    module = module_of(node, graph_module)
    return type(module) is nn.Conv2d and module.groups == 1 and _is_used_once(node, graph_module)


def _is_used_once(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Whether the layer of a node is called by no other, and its weight belongs to no other."""
    module = graph_module.get_submodule(str(node.target))
    calls = sum(other.op == "call_module" and other.target == node.target for other in graph_module.graph.nodes)
    shared = [name for name, value in graph_module.named_parameters(remove_duplicate=False) if value is module.weight]
    return calls == 1 and len(shared) == 1


def _scale(layer: nn.Module, scale: float, offset: float) -> None:
    weight, bias = cast(nn.Parameter, layer.weight), cast(nn.Parameter | None, layer.bias)
    layer.weight = nn.Parameter((weight.detach().double() * scale).to(weight.dtype), weight.requires_grad)
    if bias is None:
        width = cast(int, layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
        bias = nn.Parameter(torch.zeros(width, dtype=weight.dtype, device=weight.device), weight.requires_grad)
    layer.bias = nn.Parameter((bias.detach().double() * scale + offset).to(bias.dtype), bias.requires_grad)


def _append(graph_module: fx.GraphModule, place: fx.Node, reader: fx.Node, left: Affine) -> None:
    """A 1 x 1 convolution of one channel between a node and one of its readers."""
    codes = nn.Conv2d(1, 1, 1)
    codes.weight = nn.Parameter(torch.full((1, 1, 1, 1), left.scale))
    codes.bias = nn.Parameter(torch.full((1,), left.offset))
    graph_module.add_submodule(_CODES, codes)
    with graph_module.graph.inserting_after(place):
        node = graph_module.graph.call_module(_CODES, (place,))
    reader.replace_input_with(place, node)


def _clip(graph_module: fx.GraphModule) -> None:
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    graph_module.add_submodule(_CLIP, nn.Hardtanh(0.0, 1.0))
    with graph_module.graph.inserting_before(output):
        node = graph_module.graph.call_module(_CLIP, (output.args[0],))
    output.args = (node,)
