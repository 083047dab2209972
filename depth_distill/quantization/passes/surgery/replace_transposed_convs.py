"""Write transposed convolutions as upsampling and a plain convolution."""

import copy
from dataclasses import dataclass
from functools import partial
from operator import is_not
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, fx, nn

from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.passes.base import Context, PassResult
from depth_distill.quantization.passes.surgery.edits import finish, free_name, insert_module, pair
from depth_distill.quantization.passes.surgery.phases import nearest_kernel, transposed
from depth_distill.quantization.passes.surgery.surgery import Changes, Surgery

Instead = Literal["nearest", "pixel_shuffle"]

_EXACT = 1e-6  # of the norm of the kernel: float32


@dataclass(frozen=True)
class ReplaceTransposedConvs(Surgery):
    """Replace transposed convolutions by upsampling and a convolution, see :func:`replace_transposed_convs`.

    Args:
        by: ``nearest`` takes plain operators only, and is an approximation of most kernels; ``pixel_shuffle`` is exact,
            and needs an NPU that takes DepthToSpace.
    """

    name: ClassVar[str] = "replace_transposed_convs"

    by: Instead = "nearest"

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run :func:`replace_transposed_convs`."""
        changed, changes = replace_transposed_convs(graph, self.by)
        return PassResult(changed, changes.report("transposed convolutions became plain ones"))


def replace_transposed_convs(graph_module: fx.GraphModule, by: Instead = "nearest") -> tuple[fx.GraphModule, Changes]:
    """A copy without transposed convolutions, and what became of each.

    With stride ``s``, output pixel ``s q + r`` is a sum over a few inputs around ``q``, with other weights for each
    phase ``r``. ``pixel_shuffle`` computes the ``s * s`` phases as channels of one convolution (Shi et al. 2016), which
    is always exact. ``nearest`` upsamples by nearest neighbours and convolves at the size of the output. Such a kernel
    can only tell phases apart whose weights have equal sums; it is exact for those (every interpolation is one), and
    the nearest in least squares for others. The report says how far a kernel is off.

    The new convolution has the name of the old one. With stride 1 it is all there is, and exact. A transposed
    convolution whose output is not ``s`` times its input is left.

    Args:
        graph_module: a traced network without batch norm.
        by: see :class:`ReplaceTransposedConvs`.
    """
    changed = copy.deepcopy(graph_module)
    done: dict[str, str] = {}
    left: dict[str, str] = {}
    for name, calls in calls_by_module(changed).items():
        layer = changed.get_submodule(name)
        if type(layer) is not nn.ConvTranspose2d:
            continue
        reason = _reason_to_leave(layer, calls, by)
        if reason is not None:
            left[name] = reason
            continue
        stride = pair(layer.stride)
        if stride == (1, 1):
            changed.set_submodule(name, _flipped(layer))
            done[name] = "became a convolution, exact"
        elif by == "nearest":
            convolution, error = _behind_nearest(layer)
            changed.set_submodule(name, convolution)
            up = free_name(changed, f"{name}_upsample")
            for call in calls:
                source = call.all_input_nodes[0]
                upsample = nn.Upsample(scale_factor=tuple(map(float, stride)))
                call.replace_input_with(source, insert_module(changed, up, upsample, source, call))
            window = " x ".join(map(str, convolution.kernel_size))
            quality = "exact" if error < _EXACT else f"its kernel off by {100 * error:.2g} %"
            done[name] = f"became nearest upsampling and a {window} convolution, {quality}"
        else:
            convolution = _of_phases(layer)
            changed.set_submodule(name, convolution)
            shuffle = free_name(changed, f"{name}_shuffle")
            changed.add_submodule(shuffle, nn.PixelShuffle(stride[0]))
            for call in calls:
                with changed.graph.inserting_after(call):
                    node = changed.graph.call_module(shuffle, (call,))
                node.meta = copy.copy(call.meta)
                call.replace_all_uses_with(node, delete_user_cb=partial(is_not, node))
            done[name] = f"became a convolution to {convolution.out_channels} channels and a pixel shuffle, exact"
    return finish(changed), Changes(done, left)


def _reason_to_leave(layer: nn.ConvTranspose2d, calls: list[fx.Node], by: Instead) -> str | None:
    stride, kernel, dilation = pair(layer.stride), pair(layer.kernel_size), pair(layer.dilation)
    padding, extra = pair(layer.padding), pair(layer.output_padding)
    if any(len(call.args) + len(call.kwargs) != 1 for call in calls):
        return "it is called with an output size"
    spans = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    if stride == (1, 1):
        fits = extra == (0, 0) and all(span >= pad for span, pad in zip(spans, padding, strict=True))
        return None if fits else "with stride 1 it pads or crops its output"
    sizes = [span + more + 1 - 2 * pad for span, more, pad in zip(spans, extra, padding, strict=True)]
    if tuple(sizes) != stride:
        return f"its output is not {' x '.join(map(str, stride))} times its input"
    if by == "pixel_shuffle" and stride[0] != stride[1]:
        return f"the strides {stride} differ, and a pixel shuffle has one factor"
    return None


def _weight(layer: nn.ConvTranspose2d) -> Tensor:
    """The kernel as a convolution has it, ``(out, in / groups, kh, kw)`` float64, not flipped."""
    weight = layer.weight.detach().double().unflatten(0, (layer.groups, -1))  # (groups, in / groups, out / groups, ...)
    return weight.transpose(1, 2).flatten(0, 1)


def _like(
    layer: nn.ConvTranspose2d,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> nn.Conv2d:
    outputs, size = weight.shape[0], (weight.shape[2], weight.shape[3])
    plain = nn.Conv2d(
        layer.in_channels, outputs, size, 1, padding, dilation, groups=layer.groups, bias=bias is not None
    )
    trainable = layer.weight.requires_grad
    plain.weight = nn.Parameter(weight.to(layer.weight).contiguous(), trainable)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone(), trainable)
    return plain.train(layer.training)


def _flipped(layer: nn.ConvTranspose2d) -> nn.Conv2d:
    spans = [step * (size - 1) for size, step in zip(layer.kernel_size, pair(layer.dilation), strict=True)]
    padding = tuple(span - pad for span, pad in zip(spans, pair(layer.padding), strict=True))
    weight = _weight(layer).flip(2, 3)
    return _like(layer, weight, layer.bias, padding=cast(tuple[int, int], padding), dilation=pair(layer.dilation))


def _behind_nearest(layer: nn.ConvTranspose2d) -> tuple[nn.Conv2d, float]:
    """The convolution behind nearest upsampling, and how far its kernel is off, relative to the norm of the kernel."""
    kernels, received, wanted, margins = [], [], [], []
    for axis in (0, 1):
        stride, padding = pair(layer.stride)[axis], pair(layer.padding)[axis]
        taps = partial(transposed, stride, layer.kernel_size[axis], padding, pair(layer.dilation)[axis])
        # The kernel behind nearest upsampling covers offsets -margin to margin + stride - 1, a transposed convolution
        # with this output size -padding to padding + stride - 1. Half a stride more tells phases apart.
        margin = max(padding, stride // 2)
        kernel, own, its = nearest_kernel(taps, stride, margin)
        kernels.append(kernel)
        received.append(own)
        wanted.append(its)
        margins.append(margin)
    weight = _weight(layer).cpu()
    found = kernels[0] @ weight @ kernels[1].T
    expected = wanted[0] @ weight @ wanted[1].T
    error = (received[0] @ weight @ received[1].T - expected).norm() / expected.norm().clamp(min=1e-300)
    return _like(layer, found, layer.bias, padding=(margins[0], margins[1])), float(error)


def _of_phases(layer: nn.ConvTranspose2d) -> nn.Conv2d:
    """The convolution whose channels are the phases of a transposed one, in the order of ``nn.PixelShuffle``."""
    factor = pair(layer.stride)[0]
    matrices, reaches = [], []
    for size, padding, dilation in zip(layer.kernel_size, pair(layer.padding), pair(layer.dilation), strict=True):
        reach = max((dilation * (size - 1) - padding) // factor, (factor - 1 + padding) // factor)
        matrices.append(transposed(factor, size, padding, dilation, reach).unflatten(0, (factor, -1)))
        reaches.append(reach)
    rows, columns = matrices
    # Output channels o with phases r, s; input channels i; taps u, v; kernel k, l.
    weight = torch.einsum("ruk,oikl,svl->orsiuv", rows, _weight(layer).cpu(), columns).flatten(0, 2)
    bias = None if layer.bias is None else layer.bias.repeat_interleave(factor * factor)
    return _like(layer, weight, bias, padding=(reaches[0], reaches[1]))
