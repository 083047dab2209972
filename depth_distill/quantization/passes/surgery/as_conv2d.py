"""Write linear layers and 1-d convolutions as 2-d convolutions, and take out the reshapes between them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from timm.layers import Linear as TimmLinear
from torch import fx, nn

from depth_distill.quantization.graph.node_kinds import argument, classify, operation_name
from depth_distill.quantization.passes.base import Context, PassResult
from depth_distill.quantization.passes.surgery.affine import permuted
from depth_distill.quantization.passes.surgery.edits import finish, module_of
from depth_distill.quantization.passes.surgery.layouts import Held, broadcast, shape_in
from depth_distill.quantization.passes.surgery.measure import Shape, shapes
from depth_distill.quantization.passes.surgery.surgery import Changes, Surgery

_RESHAPES = ("flatten", "view", "reshape", "squeeze", "unsqueeze")
_LAYERS = (nn.Linear, TimmLinear, nn.Conv1d)  # timm's only casts its weight where it is scripted
_MOVES = (*_RESHAPES, "permute", "transpose", "swapaxes", "unflatten")
_ELEMENTWISE = (
    "identity", "dropout", "dropout2d", "dropout1d", "contiguous", "clone", "detach", "float", "neg", "abs", "sqrt",
    "relu", "relu6", "leakyrelu", "elu", "selu", "celu", "silu", "gelu", "hardswish", "mish", "softplus", "sigmoid",
    "hardsigmoid", "tanh", "hardtanh", "clamp", "clip", "exp", "add", "iadd", "sub", "isub", "mul", "imul", "div",
    "truediv", "itruediv", "pow",
)  # fmt: skip


@dataclass(frozen=True)
class AsConv2d(Surgery):
    """Write linear layers and 1-d convolutions as 2-d convolutions, see :func:`as_conv2d`."""

    name: ClassVar[str] = "as_conv2d"
    changes_function: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`as_conv2d`."""
        changed, changes = as_conv2d(graph, context)
        before, after = (_count_moves(each) for each in (graph, changed))
        what = f"layers became 2-d convolutions, {before} reshapes became {after}"
        return PassResult(changed, changes.report(what, reshapes_before=before, reshapes=after))


def as_conv2d(graph_module: fx.GraphModule, context: Context) -> tuple[fx.GraphModule, Changes]:
    """A copy with 2-d convolutions for linear layers and 1-d ones where that is exact, and what became of each.

    Every tensor that is an image in another layout is held as that image: vectors ``(B, C)`` as ``(B, C, 1, 1)``,
    tokens ``(B, h w, C)`` and channels-last maps as ``(B, C, h, w)``, sequences ``(B, C, L)`` as ``(B, C, 1, L)``.
    Flatten, reshape and permute then only change how an image is read, and vanish; activations, sums, means over space
    and concatenations work on images. A linear layer becomes a 1 x 1 convolution, or one whose window is the whole map
    where that was flattened. Where an operator knows no images (softmax, a matrix product, a layer norm), and at the
    outputs of the network, the tensor is restored, with one flatten or permute.

    A linear layer on tokens that were no image is left: put ``freeze_norms`` before this pass if a layer norm stands in
    between.

    Args:
        graph_module: a traced network without batch norm.
        context: gives the size of the images.
    """
    shape_of = {node.name: shape for node, shape in shapes(graph_module, context).items()}
    excluded: set[str] = set()
    while True:
        changed = copy.deepcopy(graph_module)
        rewriter = _Rewriter(changed, shape_of, excluded)
        rewriter.run()
        torn = rewriter.convolutions.keys() & rewriter.left.keys() - excluded
        if not torn:
            break
        excluded |= torn  # a layer that is called more than once is replaced at all of its calls or at none
    if not rewriter.convolutions:
        return copy.deepcopy(graph_module), Changes({}, rewriter.left)
    for name, convolution in rewriter.convolutions.items():
        changed.set_submodule(name, convolution)
    changed.graph = rewriter.graph
    return finish(changed), Changes(rewriter.done, rewriter.left)


def _count_moves(graph_module: fx.GraphModule) -> int:
    """How many reshapes and permutations of activations there are; constants are reshaped at compile time."""
    kinds = classify(graph_module).items()
    return sum(kind.kind != "not_a_tensor" and operation_name(graph_module, node) in _MOVES for node, kind in kinds)


def _only_adds_dimensions(index: Any) -> bool:
    """Whether an index is like ``[:, :, None, None]``."""
    return isinstance(index, tuple) and all(each is None or each == slice(None) for each in index)


@dataclass
class _Rewriter:
    """Builds the new graph node by node.

    Attributes:
        graph_module: the old graph and its modules.
        shape_of: shapes of the old nodes by name.
        excluded: layers to leave.
        graph: the new graph.
        images: the old tensors that are held as images.
        tensors: the old values as they were; restored from images on demand.
        convolutions: new layers by name.
        done: what became of a layer.
        left: why a layer was left.
    """

    graph_module: fx.GraphModule
    shape_of: dict[str, Shape]
    excluded: set[str]
    graph: fx.Graph = field(default_factory=fx.Graph)
    images: dict[fx.Node, Held] = field(default_factory=dict)
    tensors: dict[fx.Node, fx.Node] = field(default_factory=dict)
    convolutions: dict[str, nn.Conv2d] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        for node, kind in classify(self.graph_module).items():
            if kind.kind == "not_a_tensor":
                continue  # shapes and constants are computed where they are needed, if they still are
            held = self._as_image(node)
            if held is not None:
                self.images[node] = held
                continue
            copied = self._copy(node)
            shape = self.shape_of.get(node.name, ())
            if len(shape) == 4:
                self.images[node] = Held(copied, "image", (shape[1], shape[2], shape[3]))

    def _copy(self, node: fx.Node) -> fx.Node:
        self.tensors[node] = self.graph.node_copy(node, self._tensor)
        return self.tensors[node]

    def _tensor(self, node: fx.Node) -> fx.Node:
        """The value of an old node in the new graph, as it was."""
        if node not in self.tensors:
            if node in self.images:
                self.tensors[node] = self.images[node].restored()
            else:
                self._copy(node)
        return self.tensors[node]

    def _new(self, like: fx.Node, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        node = self.graph.create_node(op, target, args, kwargs, name=like.name)
        node.meta = copy.copy(like.meta)
        return node

    def _as_image(self, node: fx.Node) -> Held | None:
        """The result of an old node as an image, from inputs that are images; None if that is not possible."""
        if not node.op.startswith("call") or node.name not in self.shape_of:
            return None
        module = module_of(self.graph_module, node)
        if isinstance(module, nn.Linear | nn.Conv1d):
            if type(module) in _LAYERS:
                return self._layer(node, module)
            self.left[str(node.target)] = (
                f"{type(module).__module__}.{type(module).__name__} may compute something else"
            )
            return None
        source = self.images.get(node.all_input_nodes[0]) if node.all_input_nodes else None
        if source is None:
            return None
        name, shape = operation_name(self.graph_module, node), self.shape_of[node.name]
        if name in _RESHAPES or (name == "getitem" and _only_adds_dimensions(node.args[1])):
            return source.reshaped(shape)
        rank = 1 + len(shape_in(source.layout, source.size))
        if name in ("permute", "transpose", "swapaxes"):
            order = tuple(permuted(node, place, rank) for place in range(rank))
            return source.permuted(order)  # type: ignore[arg-type]
        if name in ("mean", "amax"):
            return self._pooled(node, source, rank)
        if name in ("cat", "concat"):
            return self._concatenated(node)
        return self._elementwise(node) if name in _ELEMENTWISE else None

    def _pooled(self, node: fx.Node, source: Held, rank: int) -> Held | None:
        dims = argument(node, 1, "dim")
        dims = dims if isinstance(dims, Sequence) else [0 if dims is None else dims]
        if source.layout == "flat" or {each % rank for each in dims} != source.spatial:
            return None
        name = operation_name(self.graph_module, node)
        pooled = self._new(node, "call_method", name, (source.node, [2, 3]), {"keepdim": True})
        size = (source.size[0], 1, 1)
        return Held(pooled, source.layout if argument(node, 2, "keepdim", False) else "flat", size)

    def _concatenated(self, node: fx.Node) -> Held | None:
        parts = [self.images.get(each) for each in node.all_input_nodes]
        tensors = node.args[0] if node.args else ()
        first = parts[0]
        if first is None or list(tensors) != node.all_input_nodes:  # type: ignore[arg-type]
            return None
        rank = 1 + len(shape_in(first.layout, first.size))
        sizes = {(part.layout, part.size[1:]) for part in parts if part is not None}
        is_of_channels = argument(node, 1, "dim", 0) % rank == first.channel
        if None in parts or len(sizes) > 1 or not is_of_channels or (first.layout == "flat" and first.pixels > 1):
            return None
        images = [part.node for part in parts if part is not None]
        total = sum(part.size[0] for part in parts if part is not None)
        joined = self._new(node, "call_function", torch.cat, (images, 1), {})
        return Held(joined, first.layout, (total, first.size[1], first.size[2]))

    def _elementwise(self, node: fx.Node) -> Held | None:
        parts = [self.images[each] for each in node.all_input_nodes if each in self.images]
        size = broadcast([part.size for part in parts])
        if len(parts) != len(node.all_input_nodes) or len({part.layout for part in parts}) > 1 or size is None:
            return None
        if shape_in(parts[0].layout, size) != self.shape_of[node.name][1:]:
            return None
        copied = self.graph.node_copy(node, lambda each: self.images[each].node)
        return Held(copied, parts[0].layout, size)

    def _layer(self, node: fx.Node, module: nn.Module | None) -> Held | None:
        name = str(node.target)
        if name in self.excluded:
            self.left[name] = "not all of its calls read images"
            return None
        found = self._linear(node, module) if isinstance(module, nn.Linear) else self._conv1d(node, module)
        if found is None:
            return None
        source, make, layout, size = found
        made = make()
        before = self.convolutions.get(name)
        if before is not None and before.kernel_size != made.kernel_size:
            self.left[name] = "its calls read maps of different sizes"
            return None
        if before is None:
            self.convolutions[name] = made
            window = " x ".join(map(str, made.kernel_size))
            self.done[name] = f"{type(module).__name__} became a {window} convolution"
        return Held(self._new(node, "call_module", name, (source,), {}), layout, size)

    def _linear(self, node: fx.Node, module: nn.Linear) -> "_Found | None":
        before = node.all_input_nodes[0]
        held = self.images.get(before)
        if held is None and len(self.shape_of[before.name]) == 2:
            column = self.graph.call_method("unsqueeze", (self._tensor(before), 2))
            held = Held(self.graph.call_method("unsqueeze", (column, 3)), "flat", (module.in_features, 1, 1))
        if held is None or held.layout not in ("flat", "tokens", "channels_last"):
            self.left[str(node.target)] = "it reads a sequence that is no image"
            return None
        window = held.size[1:] if held.layout == "flat" else (1, 1)
        size = (module.out_features, 1, 1) if held.layout == "flat" else (module.out_features, *held.size[1:])
        return held.node, lambda: _convolution(module, window), held.layout, size

    def _conv1d(self, node: fx.Node, module: Any) -> "_Found | None":
        before = node.all_input_nodes[0]
        held = self.images.get(before)
        shape = self.shape_of[before.name]
        if len(shape) != 3:
            self.left[str(node.target)] = "its input has no batch"
            return None
        pointwise = module.kernel_size == (1,) and module.stride == (1,) and module.padding in ((0,), "same", "valid")
        if held is None or held.layout != "planes" or not (held.size[1] == 1 or pointwise):
            row = self.graph.call_method("unsqueeze", (self._tensor(before), 2))
            held = Held(row, "planes", (shape[1], 1, shape[2]))
        positions = held.size[1:] if pointwise else (1, self.shape_of[node.name][2])
        return held.node, lambda: _convolution_1d(module), "planes", (module.out_channels, *positions)


_Found = tuple[fx.Node, Callable[[], nn.Conv2d], Any, tuple[int, int, int]]
"""The image that a layer reads, its convolution, and layout and size of its result."""


def _convolution(layer: nn.Linear, window: tuple[int, int]) -> nn.Conv2d:
    channels = layer.in_features // (window[0] * window[1])
    convolution = nn.Conv2d(channels, layer.out_features, window, bias=layer.bias is not None)
    weight = layer.weight.detach().reshape(layer.out_features, channels, *window)
    return _with_weights(convolution, layer, weight)


def _convolution_1d(layer: nn.Conv1d) -> nn.Conv2d:
    padding = layer.padding if isinstance(layer.padding, str) else (0, layer.padding[0])
    convolution = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (1, layer.kernel_size[0]),
        (1, layer.stride[0]),
        padding,
        (1, layer.dilation[0]),
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
    )
    return _with_weights(convolution, layer, layer.weight.detach().unsqueeze(2))


def _with_weights(convolution: nn.Conv2d, layer: nn.Linear | nn.Conv1d, weight: torch.Tensor) -> nn.Conv2d:
    trainable = layer.weight.requires_grad
    convolution.weight = nn.Parameter(weight.clone(), trainable)
    if layer.bias is not None:
        convolution.bias = nn.Parameter(layer.bias.detach().clone(), trainable)
    return convolution.train(layer.training)
