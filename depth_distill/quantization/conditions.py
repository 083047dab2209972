"""What is checked around every pass: the function stays where a pass claims it, and every weight has a quantizer."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depth_distill.codecs import HostPair
from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.weights import unquantized_weights
from depth_distill.quantization.interface import RawOutputs
from depth_distill.quantization.passes.base import Context, Pass, PassError, PassReport
from depth_distill.quantization.simulate.fake_quantize import placement
from depth_distill.quantization.target.target import NpuTarget

TOLERANCE = 1e-4
"""How far, relative to the largest code, a pass may move the output of a network whose function it claims to keep."""
_CODE_MARGIN = 1e-3  # how far codes may leave [0, 1]: a quarter of a step of 8 bits
_CHECKED_IMAGES = 16  # that this is checked on; a pass that changes a function shows on the first

_CHECKED_BATCHES = 4  # of raw outputs, which may be large: whole batches, because a graph may be for one size of them


@dataclass(frozen=True)
class State:
    """A network between two passes; the graphs are those of :class:`Prepared`, and ``Context.reference``."""

    folded: fx.GraphModule
    trained: fx.GraphModule
    reference: fx.GraphModule
    graph: fx.GraphModule
    context: Context

    @cached_property
    def raw_outputs(self) -> dict[str, Tensor]:
        """Every output for some calibration images, by name, for a network whose outputs have no known meaning."""
        interface, batches = self.context.interface, self.context.images
        step = max(1, -(-len(batches) // _CHECKED_BATCHES))
        device = next(iter(self.graph.state_dict().values()), torch.zeros(())).device
        with torch.inference_mode():
            runs = [interface.compared(self.graph(interface.feed(each).to(device))) for each in batches[::step]]
        return {name: torch.cat([run[name].flatten() for run in runs]).float() for name in (runs[0] if runs else ())}

    @cached_property
    def codes(self) -> Tensor | None:
        """Codes of some calibration images, in the codec of the trained network; None without images."""
        images = _some(self.context.images, _CHECKED_IMAGES)
        if images is None:
            return None
        device = next(iter(self.graph.state_dict().values()), images).device
        with torch.inference_mode():
            return self.context.interface.outputs.codes(self.graph(self.context.interface.feed(images).to(device)))


def with_deviation(report: PassReport, pass_: Pass, before: State, after: State) -> PassReport:
    """The report of a pass that changes the function, and how far it moved the output on the calibration images."""
    if isinstance(before.context.interface.outputs, RawOutputs):
        moves = [_moved(values, after.raw_outputs[name]) for name, values in before.raw_outputs.items()]
        if not moves:
            return report
        mean, largest = (max(each) for each in zip(*moves, strict=True))
    else:
        codes = _codes_on_one_scale(before, after)
        if codes is None:
            return report
        mean, largest = _moved(*codes)
    summary = report.summary
    if pass_.needs_training and not largest <= TOLERANCE:
        moved = f"output moved by {100 * mean:.2g} % of its range, at most {100 * largest:.2g} %"
        summary += f"; changes the function: {moved}; train behind it"
    values = {**report.values, "deviation": mean, "largest_deviation": largest}
    return dataclasses.replace(report, summary=summary, values=values)


def _moved(old: Tensor, new: Tensor) -> tuple[float, float]:
    """Mean and largest difference, as shares of the range of the old values."""
    span = (old.max() - old.min()).clamp(min=torch.finfo(torch.float32).tiny)
    difference = (new - old).abs() / span
    return float(difference.mean()), float(difference.max())


def _codes_on_one_scale(before: State, after: State) -> tuple[Tensor, Tensor] | None:
    """Codes before and after a pass, both in the codec of before; None without images.

    Those of a pair are compared by what they mean, in its single code: clips and carries, which a host rounds, multiply
    differences of the last bit by hundreds.
    """
    old, new = before.codes, after.codes
    if old is None or new is None:
        return None
    codecs = before.context.interface.codec, after.context.interface.codec
    scale = codecs[0].single if isinstance(codecs[0], HostPair) else codecs[0]
    if str(scale) == str(codecs[1]):
        return old, new
    old, new = (
        scale.encode_with(torch, codec.decode_with(torch, codes.float()))
        for codec, codes in zip(codecs, (old, new), strict=True)
    )
    return old, new


def ensure_same_function(before: State, after: State, where: str) -> None:
    """Refuse a pass that changed the output on the calibration images although it claims to keep the function.

    Raises:
        PassError: the output moved by more than :data:`TOLERANCE`.
    """
    if isinstance(before.context.interface.outputs, RawOutputs):
        for name, values in before.raw_outputs.items():
            # Each against its own largest value: scores and box coordinates are not on one scale.
            _ensure_same_values(values, after.raw_outputs[name], f"{where} changed what the network computes", name)
        return
    codes = _codes_on_one_scale(before, after)
    if codes is not None:
        _ensure_same_values(*codes, f"{where} changed what the network computes")


def ensure_traced(network: nn.Module, start: State) -> None:
    """On a few images, the graph computes what the network does."""
    interface = start.context.interface
    images = _some(start.context.images[:1], 2)
    if images is None:
        return
    device = next(iter(start.graph.state_dict().values()), images).device
    with torch.inference_mode(), evaluation_mode(network):
        given = interface.feed(images).to(device)
        expected, found = (interface.compared(each(given)) for each in (network, start.graph))
    for name, values in expected.items():
        output = name if isinstance(interface.outputs, RawOutputs) else ""
        _ensure_same_values(values, found[name], "the traced graph is another function than the network", output)


def ensure_codes(network: nn.Module, context: Context) -> None:
    """Check on a few calibration images that a network returns what its interface says: codes of the images' size.

    A file clips what is outside of [0, 1], and the INT8 network agrees perfectly with the clipped one.

    Args:
        network: network as trained.
        context: its interface, and images; without images nothing is known.

    Raises:
        ConfigError: it returns several tensors, another shape or other values.
    """
    images, outputs = _some(context.images[:1], 2), context.interface.outputs
    if images is None or isinstance(outputs, RawOutputs):
        return
    device = next(iter(network.state_dict().values()), images).device
    with torch.inference_mode(), evaluation_mode(network):
        returned = network(context.interface.feed(images).to(device))
    expected = (len(images), sum(outputs.channels), *images.shape[-2:])
    if not isinstance(returned, Tensor) or tuple(returned.shape) != expected:
        what = f"a tensor {tuple(returned.shape)}" if isinstance(returned, Tensor) else f"a {type(returned).__name__}"
        if isinstance(returned, Mapping):
            what += f" of {', '.join(map(repr, returned))}"
        elif isinstance(returned, list | tuple):
            what += f" of {len(returned)}"
        raise ConfigError(
            f"the network returned {what} for images {tuple(images.shape)}, expected one tensor {expected}: for a "
            "network with other outputs use ImportedNetwork, whose output says which one is meant, and resize its size"
        )
    lowest, highest = (float(each) for each in outputs.codes(returned).aminmax())
    if lowest < -_CODE_MARGIN or highest > 1 + _CODE_MARGIN:
        raise ConfigError(
            f"the network returned values from {lowest:.4g} to {highest:.4g}, expected codes in [0, 1]: a network that "
            "returns metres, or any other unit, comes in as ImportedNetwork with the meaning of its output"
        )


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Run a network as it is evaluated, and leave each of its modules in the mode that it was in."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _ensure_same_values(old: Tensor, new: Tensor, what: str, output: str = "") -> None:
    """Refuse a deviation past the tolerance, and one that is not a number."""
    if not old.numel():
        return
    deviation = float((new - old).abs().max() / old.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    if not deviation <= TOLERANCE:
        moved = f"output {output!r} moved by {deviation:.3g} of its largest value"
        if not output:
            moved = f"its output moved by {deviation:.3g} of the largest code on {len(new)} calibration images"
        raise PassError(
            f"{what}: {moved}, allowed is {TOLERANCE:g}. A layer that computes more than its class says "
            "(a weight norm, an activation inside) is the usual reason: remove it, or leave the pass out"
        )


def ensure_graph(graph: fx.GraphModule, target: NpuTarget) -> None:
    """Names of sites are unique, and every weight that the network multiplies by has a quantizer."""
    if any(isinstance(module, _BatchNorm) for module in graph.modules()):
        return  # not folded yet: no place for quantizers
    sites = [site.name for site in placement(graph, target)]
    twice = sorted({name for name in sites if sites.count(name) > 1})
    if twice:
        raise ConfigError(f"two places of the network are called {twice[0]!r}: their ranges would be confused")
    left = unquantized_weights(graph, sites)
    if left:
        owner = type(graph.get_submodule(left[0].rpartition(".")[0])).__name__
        raise ConfigError(
            f"{left[0]} would stay in float, because no layer with a quantizer owns it, but a {owner}: rewrite that "
            "layer with nn.Conv2d, nn.ConvTranspose2d or nn.Linear"
        )


def _some(batches: Sequence[Tensor], count: int) -> Tensor | None:
    """About ``count`` images, evenly spread over all; None where there are none."""
    total = sum(len(batch) for batch in batches)
    if not total:
        return None
    chosen = set(range(0, total, max(1, total // count)))
    return torch.stack([image for place, image in enumerate(_each(batches)) if place in chosen])


def _each(batches: Sequence[Tensor]) -> Iterator[Tensor]:
    for batch in batches:
        yield from batch
