"""Pad with zeros, inside the convolution where that is possible."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import fx, nn

from depth_distill.quantization.graph.node_kinds import argument
from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.passes.base import Context, PassResult
from depth_distill.quantization.passes.surgery.edits import erase, finish, module_of, pair, place_of
from depth_distill.quantization.passes.surgery.surgery import Changes, Surgery

_MODES: dict[type[nn.Module], str] = {
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "replicate",
    nn.CircularPad2d: "circular",
    nn.ZeroPad2d: "constant",
    nn.ConstantPad2d: "constant",
}


@dataclass(frozen=True)
class ZeroPadding(Surgery):
    """Replace reflecting, replicating and circular padding by zero padding, see :func:`zero_padding`."""

    name: ClassVar[str] = "zero_padding"

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`zero_padding`."""
        changed, changes = zero_padding(graph)
        merged = sum("merged" in each for each in changes.done.values())
        return PassResult(changed, changes.report("paddings became zero padding", merged=merged))


@dataclass(frozen=True)
class _Padding:
    """What a node pads with; ``amounts`` is (left, right, top, bottom), None where they depend on the image."""

    mode: str
    amounts: tuple[int, int, int, int] | None
    value: float

    @property
    def symmetric(self) -> tuple[int, int] | None:
        """(height, width) as a convolution pads; None where that is impossible."""
        if self.amounts is None or self.value:
            return None
        left, right, top, bottom = self.amounts
        return (top, left) if left == right >= 0 and top == bottom >= 0 else None


def zero_padding(graph_module: fx.GraphModule) -> tuple[fx.GraphModule, Changes]:
    """A copy that pads with zeros only, and what became of each padding.

    Reflecting, replicating and circular padding (modules, ``F.pad``, ``padding_mode`` of a convolution) become zero
    padding, which changes what the network computes along the border. A symmetric zero padding whose readers are
    convolutions is merged into their own ``padding``; that is exact, also for zero padding that was there before.
    """
    changed = copy.deepcopy(graph_module)
    done: dict[str, str] = {}
    left: dict[str, str] = {}
    for node in list(changed.graph.nodes):
        padding = _padding_of(changed, node)
        if padding is not None and padding.mode != "constant":
            _pad_with_zeros(changed, node, padding)
            done[place_of(node)] = f"{padding.mode} became zeros"
    for name in calls_by_module(changed):
        layer = changed.get_submodule(name)
        if type(layer) is nn.Conv2d and layer.padding_mode != "zeros":
            done[name] = f"{layer.padding_mode} became zeros"
            layer.padding_mode = "zeros"
    for node in list(changed.graph.nodes):
        padding = _padding_of(changed, node)
        if padding is None:
            continue
        place = place_of(node)
        if not node.users:  # its convolution is called elsewhere, too, and was merged there
            done[place] = "merged"
            erase(node)
            continue
        reason = _reason_against_merging(changed, node, padding)
        if reason is None:
            layers = _merge(changed, node, padding)
            done[place] = f"{done[place]}, " if place in done else ""
            done[place] += f"merged into {', '.join(layers)}"
            erase(node)
        elif padding.value:
            left[place] = reason
        elif place in done:
            done[place] += f", stays an operator: {reason}"
        else:
            left[place] = f"zeros already, but {reason}"
    return finish(changed), Changes(done, left)


def _padding_of(graph_module: fx.GraphModule, node: fx.Node) -> _Padding | None:
    """The padding of a node that pads height and width; None of other nodes."""
    module = module_of(graph_module, node)
    if module is not None:
        mode = _MODES.get(type(module))
        if mode is None:
            return None
        assert isinstance(module.padding, Sequence)
        left, right, top, bottom = module.padding
        return _Padding(mode, (left, right, top, bottom), float(getattr(module, "value", 0.0)))
    if node.op != "call_function" or node.target is not F.pad:
        return None
    amounts = argument(node, 1, "pad")
    mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value")
    if isinstance(amounts, fx.Node) or not all(isinstance(each, int) for each in amounts):
        return _Padding(mode, None, value or 0.0)
    if any(amounts[4:]):
        return None  # of channels or images
    four = (*amounts, 0, 0, 0, 0)[:4]
    return _Padding(mode, four, value or 0.0)


def _pad_with_zeros(graph_module: fx.GraphModule, node: fx.Node, padding: _Padding) -> None:
    if node.op == "call_module":
        assert padding.amounts is not None
        graph_module.set_submodule(str(node.target), nn.ZeroPad2d(padding.amounts))
    else:
        node.args, node.kwargs = (node.args[0], argument(node, 1, "pad")), {}


def _reason_against_merging(graph_module: fx.GraphModule, node: fx.Node, padding: _Padding) -> str | None:
    if padding.value:
        return f"it pads with {padding.value:g}"
    if padding.amounts is None:
        return "its size depends on the image"
    if padding.symmetric is None:
        return f"{padding.amounts} (left, right, top, bottom) is not symmetric"
    calls = calls_by_module(graph_module)
    for user in node.users:
        layer = module_of(graph_module, user)
        if type(layer) is not nn.Conv2d:
            return f"it is read by {place_of(user)}"
        if _own_padding(layer) is None:
            return f"the padding {layer.padding!r} of {user.target} is not symmetric"
        for call in calls[str(user.target)]:
            other = _padding_of(graph_module, call.all_input_nodes[0])
            if other is None or other.symmetric != padding.symmetric:
                return f"{user.target} is called elsewhere with another padding"
            if any(type(module_of(graph_module, each)) is not nn.Conv2d for each in call.all_input_nodes[0].users):
                return f"{user.target} is called elsewhere behind a padding that stays"
    return None


def _merge(graph_module: fx.GraphModule, node: fx.Node, padding: _Padding) -> list[str]:
    """Put a padding into the convolutions that read it, at all of their calls; the names of those."""
    assert padding.symmetric is not None
    names = list(dict.fromkeys(str(user.target) for user in node.users))
    calls = calls_by_module(graph_module)
    for name in names:
        layer = graph_module.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        own = _own_padding(layer)
        assert own is not None
        layer.padding = (own[0] + padding.symmetric[0], own[1] + padding.symmetric[1])
        for call in calls[name]:
            before = call.all_input_nodes[0]
            call.replace_input_with(before, before.all_input_nodes[0])
    return names


def _own_padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    """(height, width) that a convolution pads with; None where ``same`` needs more on one side."""
    if not isinstance(layer.padding, str):
        return pair(layer.padding)
    if layer.padding == "valid":
        return 0, 0
    total = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(each % 2 for each in total) else (total[0] // 2, total[1] // 2)
