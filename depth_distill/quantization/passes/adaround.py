"""Adaptive rounding: round each weight up or down so that its layer's output stays close to that of the float layer."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import Operation, classify
from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.passes.lockstep import advance, start
from depth_distill.quantization.passes.soft_rounding import SoftRounding, WeightGrid, require_roundable
from depth_distill.quantization.simulate.fake_quantize import remove_fake_quant
from depth_distill.quantization.simulate.quantized_layers import (
    QuantizedConvTranspose2d,
    QuantizedLayer,
    QuantizedLinear,
)

_LEARNING_RATE = 0.2  # 20 times the paper's, with 1 / 30 of its iterations
_LAMBDA = 10.0  # the error is 1 for rounding to nearest, and the regularizer a mean, so it fits any layer
_POSITIONS = 8192  # output positions per layer that weights are fitted on
_BATCH = 256  # positions per optimizer step
_HELD_OUT = 8  # one image in eight is held out


@dataclass(frozen=True)
class AdaRound(Pass):
    """Round weights up or down so that the output of each layer is kept, see :func:`adaround`.

    Args:
        iterations: optimizer steps per layer.
        images: number of calibration images to fit the rounding on.
        seed: seed of the random output positions.
    """

    name: ClassVar[str] = "adaround"
    changes_function: ClassVar[bool] = True
    values_only: ClassVar[bool] = True
    for_int8: ClassVar[bool] = True

    iterations: int = 300
    images: int = 64
    seed: Literal[0] | int = 0

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Quantize for the target, round, and remove the quantizers; the weights then lie on their grid."""
        batches = context.first_batches(self.images)
        rounded = adaround(
            graph, context.quantize(graph), batches, self.iterations, self.seed, progress=context.progress
        )
        return PassResult(remove_fake_quant(rounded), PassReport(f"weights rounded, {self.iterations} steps per layer"))


def adaround(
    graph_module: fx.GraphModule,
    quantized: fx.GraphModule,
    batches: Sequence[Tensor],
    iterations: int = 300,
    seed: int = 0,
    progress: bool = True,
) -> fx.GraphModule:
    """A copy of ``quantized`` whose float weights lie on their grid, rounded so that each layer's output is kept.

    AdaRound (Nagel et al. 2020), asymmetric reconstruction with the fused activation (eq. 25), in topological order:
    the inputs of a layer come from the layers before it, already rounded, and its output is fitted to that of the float
    layer. The rounding is fitted on the first seven eighths of the images; an output channel keeps rounding to nearest
    unless the fitted rounding is better on the last eighth, which is held out.

    The largest magnitude of every tensor (or channel, if scales are per-channel) keeps its code. So a tool chain that
    uses ``max |w| / 127`` finds the same scale and rounds each weight to itself, and the gain is kept when a vendor
    quantizes the float file (see :func:`~depth_distill.quantization.simulate.fake_quantize.remove_fake_quant`).
    Biases do not change: correct them afterwards with
    :func:`~depth_distill.quantization.passes.bias_correct.bias_correct`. Layers that are called more than once are
    rounded to nearest; those whose weight quantizer is off stay float.

    Memory: both networks run node by node over all batches in lockstep, as in ``bias_correct``, plus the inputs of one
    layer.

    Args:
        graph_module: the float network.
        quantized: the same network with fake-quantizers and calibrated ranges; layers have the same names.
        batches: images ``(B, 3, H, W)`` on the device of the networks; deep layers overfit on fewer than about 64.
        iterations: optimizer steps per layer.
        seed: seed of the random output positions.
        progress: whether to show a progress bar.

    Returns:
        The rounded network in evaluation mode; calibrate it again, as its activations have changed.

    Raises:
        ConfigError: there are no images, no iterations or no fake-quantized layers, a layer of ``quantized`` is not in
            the float network, or weights are asymmetric.
    """
    if not batches:
        raise ConfigError("adaptive rounding needs calibration images, received none")
    if iterations < 1:
        raise ConfigError(f"iterations: received {iterations}, expected 1 or more")
    rounded, reference = copy.deepcopy(quantized).eval(), copy.deepcopy(graph_module).eval()
    layers = {name: layer for name, layer in rounded.named_modules() if isinstance(layer, QuantizedLayer)}
    calls = {name: nodes for name, nodes in calls_by_module(rounded).items() if name in layers}
    float_nodes = {name: nodes[0] for name, nodes in calls_by_module(reference).items()}
    require_roundable(layers, reference, float_nodes)
    single = {nodes[0]: name for name, nodes in calls.items() if len(nodes) == 1}
    operations = classify(rounded)
    generator = torch.Generator().manual_seed(seed)
    runs, float_runs = start(rounded, batches), start(reference, batches)
    float_order = iter(reference.graph.nodes)
    with torch.no_grad():
        for layer in (layers[name] for name, nodes in calls.items() if len(nodes) > 1):
            layer.weight.copy_(layer.weight_quantizer(layer.weight))
        for node in track(list(rounded.graph.nodes), description="adaround", transient=True, disable=not progress):
            if node in single and layers[single[node]].weight_quantizer.rounds_to_integers:
                layer, float_node = layers[single[node]], float_nodes[single[node]]
                advance(float_runs, float_order, upto=float_node)
                inputs = torch.cat([run.env[node.all_input_nodes[0]] for run in runs])
                targets = torch.cat([run.env[float_node] for run in float_runs])
                activation = _fused_activation(node, rounded, operations)
                layer.weight.copy_(_round(layer, inputs, targets, activation, iterations, generator))
                del inputs, targets
            advance(runs, [node])
    return rounded


def _fused_activation(
    node: fx.Node, network: fx.GraphModule, operations: dict[fx.Node, Operation]
) -> Callable[[Tensor], Tensor]:
    """The activation behind a layer with no quantizer in between, otherwise the identity."""
    users = list(node.users)
    while len(users) == 1 and operations[users[0]].kind == "identity":
        users = list(users[0].users)
    if len(users) != 1 or operations[users[0]].kind != "activation":
        return lambda values: values
    activation = users[0]

    def apply(values: Tensor) -> Tensor:
        run = fx.Interpreter(network)
        run.env[activation.all_input_nodes[0]] = values
        result = run.run_node(activation)
        assert isinstance(result, Tensor)
        return result

    return apply


@dataclass(frozen=True)
class _Samples:
    """Inputs of a layer at ``M`` output positions, and the outputs to be fitted there.

    Attributes:
        columns: inputs ``(M, groups, K)`` for a weight ``(groups, channels, K)``.
        targets: outputs of the float layer after its activation, ``(M, groups * channels)``.
        bias: bias of the layer.
        activation: fused activation, a function of ``(M, groups * channels)``.
    """

    columns: Tensor
    targets: Tensor
    bias: Tensor | None
    activation: Callable[[Tensor], Tensor]

    def error(self, weight: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Mean squared error per channel, ``(groups, channels)`` (eq. 25)."""
        columns, targets = self.columns, self.targets
        if chosen is not None:
            columns, targets = columns[chosen], targets[chosen]
        output = torch.einsum("mgk,gok->mgo", columns, weight).flatten(1)
        output = self.activation(output if self.bias is None else output + self.bias)
        return (output - targets).square().mean(0).view(weight.shape[:2])


def _round(
    layer: QuantizedLayer,
    inputs: Tensor,
    targets: Tensor,
    activation: Callable[[Tensor], Tensor],
    iterations: int,
    generator: torch.Generator,
) -> Tensor:
    """The layer's weight, rounded to its grid."""
    grid = WeightGrid.of(layer).mapped(partial(_matrices, layer))
    windows, targets = _windows(layer, inputs.float()), _by_position(layer, targets.float())
    split = len(windows) - len(windows) // _HELD_OUT
    seen = _sample(layer, windows[:split], targets[:split], activation, generator)
    unseen = _sample(layer, windows[split:], targets[split:], activation, generator) if split < len(windows) else seen

    chosen = grid.rounded(_choose_up(grid, seen, iterations, generator))
    better = unseen.error(chosen * grid.scale) < unseen.error(grid.nearest * grid.scale)
    codes = torch.where(better[..., None], chosen, grid.nearest)
    return _weight(layer, codes * grid.scale).to(layer.weight.dtype)


def _choose_up(grid: WeightGrid, samples: _Samples, iterations: int, generator: torch.Generator) -> Tensor:
    """1 for each weight to round up, 0 for the others: minimizes eq. 25 with the regularizer of eq. 24 by Adam."""
    soft = SoftRounding(grid)
    nearest_error = samples.error(grid.nearest * grid.scale).mean()
    if nearest_error == 0:
        return soft.up()
    with torch.enable_grad():
        optimizer = torch.optim.Adam([soft.variable], lr=_LEARNING_RATE, fused=True)
        for iteration in range(iterations):
            positions = torch.randint(len(samples.columns), (_BATCH,), generator=generator).to(grid.codes.device)
            weight, undecided = soft.weight(iteration / iterations)
            loss = samples.error(weight, positions).mean() / nearest_error + _LAMBDA * undecided
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return soft.up()


def _sample(
    layer: QuantizedLayer,
    windows: Tensor,
    targets: Tensor,
    activation: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> _Samples:
    chosen = torch.randperm(windows.shape[:3].numel(), generator=generator)[:_POSITIONS]
    where = torch.unravel_index(chosen.to(windows.device), windows.shape[:3])
    columns = windows[where].flatten(1).unflatten(1, (_groups(layer), -1))
    bias = None if layer.bias is None else layer.bias.float()
    return _Samples(columns, activation(targets[where]), bias, activation)


def _windows(layer: QuantizedLayer, inputs: Tensor) -> Tensor:
    """Inputs of every output position, ``(B, H, W, C, kh, kw)``: a view, except for the padding."""
    if isinstance(layer, QuantizedLinear):
        return inputs.flatten(0, -2)[:, None, None, :, None, None]
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    if isinstance(layer, QuantizedConvTranspose2d):
        # Equals a convolution with the flipped kernel on the input with zeros in between.
        batch, channels, height, width = inputs.shape
        spread = inputs.new_zeros(batch, channels, (height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1)
        spread[:, :, :: stride[0], :: stride[1]] = inputs
        top, left = (dilation[dim] * (kernel[dim] - 1) - int(layer.padding[dim]) for dim in (0, 1))
        padded = F.pad(spread, (left, left + layer.output_padding[1], top, top + layer.output_padding[0]))
        stride = (1, 1)
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    for dim in (0, 1):
        padded = padded.unfold(2 + dim, dilation[dim] * (kernel[dim] - 1) + 1, stride[dim])
    return padded[..., :: dilation[0], :: dilation[1]].permute(0, 2, 3, 1, 4, 5)


def _by_position(layer: QuantizedLayer, outputs: Tensor) -> Tensor:
    """Outputs as ``(B, H, W, channels)``."""
    if isinstance(layer, QuantizedLinear):
        return outputs.flatten(0, -2)[:, None, None, :]
    return outputs.permute(0, 2, 3, 1)


def _groups(layer: QuantizedLayer) -> int:
    return int(getattr(layer, "groups", 1))


def _matrices(layer: QuantizedLayer, weight: Tensor) -> Tensor:
    """A tensor of the weight's shape as ``(groups, channels, K)``, with ``K`` in the order of :func:`_windows`."""
    if isinstance(layer, QuantizedConvTranspose2d):
        return weight.flip(2, 3).unflatten(0, (_groups(layer), -1)).transpose(1, 2).flatten(2)
    return weight.flatten(1).unflatten(0, (_groups(layer), -1))


def _weight(layer: QuantizedLayer, matrices: Tensor) -> Tensor:
    """The inverse of :func:`_matrices`."""
    if isinstance(layer, QuantizedConvTranspose2d):
        kernel = matrices.unflatten(2, (-1, *layer.weight.shape[2:]))
        return kernel.transpose(1, 2).flatten(0, 1).flip(2, 3)
    return matrices.reshape(layer.weight.shape)
