"""The criterion of equalization, and the scales that minimize it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx

from depth_distill.quantization.graph.channel_groups import PINNED, ChannelGroups
from depth_distill.quantization.passes.rescale import as_matrix

# Chosen on two trained U-Nets (ResNet18, MobileNetV2), where the SQNR of equal choices scatters by 1 to 2 dB.
_P = 8.0  # exponent of the p-norm that approximates the maximum: 4 converges faster, but loses 0.3 to 1.7 dB
# Weight of a bias or activation. ResNet18: 1 costs weights 4 dB; 0.1 costs activations 8 dB if 20 % are dead.
_SIDE_WEIGHT = 0.3
_LIMIT_WEIGHT = 100.0  # of the penalty above a limit, per squared nat; scales are cut off at their limits in the end
_TOLERANCE = 1e-4  # change of the criterion, in nats summed over layers; 1e-6 takes 1.4 to 1.8 times the steps


@dataclass(frozen=True)
class EqualizationScales:
    """Scales ``(groups.count,)`` float64, number of steps of their search, and whether it converged."""

    scales: Tensor
    iterations: int
    converged: bool


def find_scales(
    graph_module: fx.GraphModule,
    groups: ChannelGroups,
    activation_ranges: Mapping[str, Tensor],
    max_iterations: int,
    limits: Tensor | None = None,
) -> EqualizationScales:
    """The scales of the channel groups that minimize the cost of per-tensor quantization.

    With ``u = log s``, a scaled weight is ``|w_oi| exp(u_o - u_i)``. The step of its quantizer is proportional to its
    maximum; what matters is the step relative to the weights, hence to their geometric mean. So the sum of this term
    over layers is minimized::

        log ||W exp(u_o - u_i)||_p  -  mean_o u_o  +  mean_i u_i

    The term is the log of the maximum over the geometric mean, up to a constant and with a p-norm (p = 8) for the
    maximum. Like the criterion of Nagel et al. 2019, eq. 8-9, it rewards precision of channels relative to their
    tensor, for producers and consumers alike, but it is convex in ``u`` for any number of producers and consumers per
    group. On a trained ResNet18 U-Net, a hundred rounds of the geometric mean of their eq. 11 over all layers of a
    group did not converge and were 8 dB below no equalization at all.

    Biases and activations, which also have one scale per tensor, get the same term with a smaller weight. Without it, a
    channel with weights near zero but a larger bias would be scaled up so much that its activation would set the range
    of the tensor.

    Args:
        graph_module: a traced network without batch norm.
        groups: channel groups of the network.
        activation_ranges: largest magnitude per channel, ``(C,)`` by node name; may be empty.
        max_iterations: maximum number of L-BFGS steps.
        limits: largest scale of each group, ``(groups.count,)``; infinite where there is none.
    """
    terms = [*_weight_terms(graph_module, groups), *_vector_terms(graph_module, groups, activation_ranges)]
    highest = None if limits is None else limits.double().log()
    if highest is not None:
        terms.append(_LimitTerm(highest))
    logs = torch.zeros(groups.count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logs],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=_TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        criterion = 0.0 * logs.sum() + sum(term.value(logs) for term in terms)
        criterion.backward()
        assert logs.grad is not None
        logs.grad[PINNED] = 0.0
        return criterion

    optimizer.step(closure)
    state = optimizer.state[logs]
    iterations = int(state.get("n_iter", 0))
    converged = iterations < max_iterations and int(state["func_evals"]) < 2 * max_iterations
    found = logs.detach() if highest is None else torch.minimum(logs.detach(), highest)
    found[PINNED] = 0.0
    return EqualizationScales(found.exp(), iterations, converged)


class _Term(Protocol):
    """A convex function of the log scales of all groups."""

    def value(self, logs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _WeightTerm:
    """The term of a weight: ``powers`` is ``(|w| / max |w|)^p``, ``(G, out, in)``.

    The other tensors are the channel groups and averaging weights of its rows and columns.
    """

    powers: Tensor
    outputs: Tensor
    inputs: Tensor
    row_weights: Tensor
    column_weights: Tensor

    def value(self, logs: Tensor) -> Tensor:
        rows, columns = logs[self.outputs], -logs[self.inputs]
        row_shift, column_shift = rows.detach().max(), columns.detach().max()  # exp must not overflow
        sums = self.powers @ torch.exp(_P * (columns - column_shift)).unsqueeze(-1)
        total = (sums.squeeze(-1) * torch.exp(_P * (rows - row_shift))).sum()
        norm = total.log() / _P + row_shift + column_shift
        return norm - (rows * self.row_weights).sum() - (columns * self.column_weights).sum()


@dataclass(frozen=True)
class _VectorTerm:
    """The term of a bias or activation: log magnitude and group of each channel."""

    magnitudes: Tensor
    channels: Tensor

    def value(self, logs: Tensor) -> Tensor:
        scaled = self.magnitudes + logs[self.channels]
        return _SIDE_WEIGHT * (torch.logsumexp(_P * scaled, 0) / _P - scaled.mean())


@dataclass(frozen=True)
class _LimitTerm:
    """The penalty of groups whose log scale is above its limit."""

    highest: Tensor

    def value(self, logs: Tensor) -> Tensor:
        return _LIMIT_WEIGHT * (logs - self.highest).clamp(min=0).square().sum()


def _weight_terms(graph_module: fx.GraphModule, groups: ChannelGroups) -> list[_Term]:
    terms: list[_Term] = []
    for name, channels in groups.layers.items():
        magnitude = as_matrix(graph_module.get_submodule(name)).double().abs().amax(-1).cpu()  # type: ignore[arg-type]
        if magnitude.max() == 0:
            continue
        # All-zero channels lose nothing and do not count.
        rows, columns = (magnitude.amax(2) > 0).double(), (magnitude.amax(1) > 0).double()
        blocks = len(magnitude)
        terms.append(
            _WeightTerm(
                (magnitude / magnitude.max()) ** _P,
                channels.outputs.view(blocks, -1),
                channels.inputs.view(blocks, -1),
                rows / rows.sum(),
                columns / columns.sum(),
            )
        )
    return terms


def _vector_terms(
    graph_module: fx.GraphModule, groups: ChannelGroups, activation_ranges: Mapping[str, Tensor]
) -> list[_Term]:
    vectors = [(values, groups.activations[name]) for name, values in activation_ranges.items()]
    for name, layer in groups.layers.items():
        bias = graph_module.get_submodule(name).bias
        if isinstance(bias, Tensor):
            vectors.append((bias.detach(), layer.outputs))
    terms: list[_Term] = []
    for values, channels in vectors:
        magnitudes = values.double().abs().cpu()
        live = magnitudes > 0
        if live.any():
            terms.append(_VectorTerm(magnitudes[live].log(), channels[live]))
    return terms
