"""Block-wise reconstruction: learn rounding and biases of a block of layers so that the block keeps its output."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from rich.progress import track
from torch import Tensor, fx

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.blocks import Block, find_blocks, values_read, values_returned
from depth_distill.quantization.graph.trace import calls_by_module
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.passes.block_fit import BlockFit, BlockValues
from depth_distill.quantization.passes.lockstep import advance, start
from depth_distill.quantization.passes.soft_rounding import require_roundable
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import remove_fake_quant
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer


@dataclass(frozen=True)
class ReconstructBlocks(Pass):
    """Round weights and move biases so that the output of each block is kept, see :func:`reconstruct_blocks`.

    Args:
        iterations: optimizer steps per block.
        images: number of calibration images to fit on.
        max_layers: most layers of a block that is joined of several.
        seed: seed of the order of images and of what is dropped.
    """

    name: ClassVar[str] = "reconstruct_blocks"
    changes_function: ClassVar[bool] = True
    values_only: ClassVar[bool] = True
    for_int8: ClassVar[bool] = True

    iterations: int = 60
    images: int = 64
    max_layers: int = 4
    seed: Literal[0] | int = 0

    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Quantize for the target, reconstruct, and remove the quantizers; the weights then lie on their grid."""
        done = reconstruct_blocks(
            graph,
            context.quantize(graph),
            context.first_batches(self.images),
            self.iterations,
            self.max_layers,
            self.seed,
            progress=context.progress,
        )
        values = {"blocks": done.blocks, "kept": done.kept}
        summary = f"{done.kept} of {done.blocks} blocks got nearer to FP32, {self.iterations} steps each"
        return PassResult(remove_fake_quant(done.graph), PassReport(summary, values))


@dataclass(frozen=True)
class Reconstruction:
    """A network after :func:`reconstruct_blocks`.

    Attributes:
        graph: the network, in evaluation mode; calibrate it again, as its activations have changed.
        blocks: number of blocks that have weights to round.
        kept: how many of them are better than rounded to nearest on the held-out images; the others are that.
    """

    graph: fx.GraphModule
    blocks: int
    kept: int


def reconstruct_blocks(
    graph_module: fx.GraphModule,
    quantized: fx.GraphModule,
    batches: Sequence[Tensor],
    iterations: int = 60,
    max_layers: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> Reconstruction:
    """A copy of ``quantized`` whose weights lie on their grid, rounded so that the output of each block is kept.

    BRECQ (Li et al. 2021) without its Fisher weighting, with the dropped quantization of QDrop (Wei et al. 2022),
    block by block (:func:`~depth_distill.quantization.graph.blocks.find_blocks`) in topological order. Rounding and
    biases of all layers of a block are learned together, to minimize ::

        |f(x) - f_q(x_q)|^2 / |f(x) - f_nearest(x_q)|^2 + lambda mean(1 - |2 h - 1|^beta)

    where ``f`` is the block in float, ``x_q`` its input from the blocks before it, already reconstructed, and ``h``
    the share by which a weight is rounded up (AdaRound, Nagel et al. 2020). While it is learned, half of the values of
    every quantized activation are the float ones, drawn anew in each step, so that rounding does not adapt to the grid
    of activations on a few images. It is fitted on the first seven eighths of the images; a block stays rounded to
    nearest unless it is better on the last eighth.

    Nothing else is learned, as a vendor who is given the float file measures its own ranges: the largest magnitude of
    every weight keeps its code, so ``max |w| / 127`` is the same scale again and rounds each weight to itself, and
    biases are as good as exact in int32. Layers that are called more than once are rounded to nearest, and so are those
    of a block that reads or returns what is not a value of each image; those whose weight quantizer is off stay float.

    Memory: both networks run node by node over all batches in lockstep, plus inputs and outputs of one block.

    Args:
        graph_module: the float network.
        quantized: the same network with fake-quantizers and calibrated ranges; nodes and layers have the same names.
        batches: images ``(B, 3, H, W)`` on the device of the networks; deep layers overfit on fewer than about 64.
        iterations: optimizer steps per block.
        max_layers: most layers of a block that is joined of several.
        seed: seed of the order of images and of what is dropped.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: there are no images, no iterations or no fake-quantized layers, a layer of ``quantized`` is not in
            the float network, or weights are asymmetric.
    """
    if not batches:
        raise ConfigError("block reconstruction needs calibration images, received none")
    for name, value in (("iterations", iterations), ("max_layers", max_layers)):
        if value < 1:
            raise ConfigError(f"{name}: received {value}, expected 1 or more")
    fitted, reference = copy.deepcopy(quantized).eval(), copy.deepcopy(graph_module).eval()
    layers = {name: layer for name, layer in fitted.named_modules() if isinstance(layer, QuantizedLayer)}
    require_roundable(layers, reference, calls_by_module(reference))
    calls = {name: len(nodes) for name, nodes in calls_by_module(fitted).items() if name in layers}
    once = {name for name, count in calls.items() if count == 1}
    blocks = find_blocks(reference, batches[0][:1], max_layers)
    stretches, rest = _same_in(fitted, blocks)
    generator = torch.Generator().manual_seed(seed)
    runs, float_runs = start(fitted, batches), start(reference, batches)
    named = {node.name: node for node in reference.graph.nodes}
    outcomes: list[bool] = []
    with torch.no_grad():
        for name in calls.keys() - once:
            layers[name].weight.copy_(layers[name].weight_quantizer(layers[name].weight))
        advance(runs, rest)
        inside = {node for block in blocks for node in block}
        advance(float_runs, [node for node in reference.graph.nodes if node not in inside and node.op != "output"])
        shown = track(list(zip(blocks, stretches, strict=True)), "blocks", transient=True, disable=not progress)
        for block, stretch in shown:
            values = _values(fitted, block, stretch, runs, float_runs, named, [len(batch) for batch in batches])
            if values is not None:
                fit = BlockFit(fitted, stretch, values, once, iterations, generator)
                if fit.layers:
                    outcomes.append(fit())
                del fit
            del values  # before the next are made
            advance(runs, stretch)
    return Reconstruction(fitted, len(outcomes), sum(outcomes))


def _same_in(quantized: fx.GraphModule, blocks: Sequence[Block]) -> tuple[list[Block], list[fx.Node]]:
    """The blocks of the float network in the quantized one, each with its quantizers; and the nodes in none."""
    owner = {node.name: place for place, block in enumerate(blocks) for node in block}
    stretches: list[list[fx.Node]] = [[] for _ in blocks]
    rest = []
    for node in quantized.graph.nodes:
        place = owner.get(_rounded(node, quantized).name)
        if place is not None:
            stretches[place].append(node)
        elif node.op != "output":
            rest.append(node)
    return [tuple(each) for each in stretches], rest


def _rounded(node: fx.Node, quantized: fx.GraphModule) -> fx.Node:
    """The node whose value a quantizer rounds; any other node itself. It has the same name in the float network."""
    while node.op == "call_module" and isinstance(quantized.get_submodule(str(node.target)), FakeQuantizer):
        node = node.all_input_nodes[0]
    return node


def _values(
    quantized: fx.GraphModule,
    block: Block,
    stretch: Block,
    runs: Sequence[fx.Interpreter],
    float_runs: Sequence[fx.Interpreter],
    named: Mapping[str, fx.Node],
    images: Sequence[int],
) -> BlockValues | None:
    """What goes in and comes out of a block; the float network, with nodes by name, is run to its end.

    None if a value is not one of each image, such as a size, or windows of all images: it would not be that of a few.
    """
    reads = values_read(stretch)
    constants = {node: runs[0].env[node] for node in reads if node.op == "get_attr"}
    inputs = [node for node in reads if node.op != "get_attr"]
    sources = {node: named[_rounded(node, quantized).name] for node in inputs}
    received = {node: [run.env[node] for run in runs] for node in inputs}
    exact = {node: [run.env[source] for run in float_runs] for node, source in sources.items()}
    advance(float_runs, block)
    # Before their own quantizers: what these round off is the same with any weights.
    outputs = dict.fromkeys(_rounded(node, quantized) for node in values_returned(stretch))
    targets = {node: [run.env[named[node.name]] for run in float_runs] for node in outputs}
    for values in (received, exact, targets):
        if not all(_is_of_images(each, images) for each in values.values()):
            return None
    return BlockValues(_joined(received), _joined(exact), constants, _joined(targets))


def _is_of_images(values: Sequence[object], images: Sequence[int]) -> bool:
    """Whether there is a part for each image of every batch."""
    return all(
        isinstance(value, Tensor) and value.ndim > 0 and len(value) == count
        for value, count in zip(values, images, strict=True)
    )


def _joined(values: Mapping[fx.Node, Sequence[Tensor]]) -> dict[fx.Node, Tensor]:
    return {node: torch.cat(list(each)) for node, each in values.items()}
