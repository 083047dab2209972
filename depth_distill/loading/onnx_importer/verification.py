"""Whether a graph computes what ONNX Runtime computes from the file."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from depth_distill.errors import ConfigError
from depth_distill.loading.onnx_importer.nodes import Node
from depth_distill.loading.onnx_importer.reading import OnnxTensor
from depth_distill.loading.onnx_importer.session import open_session, run_session

TOLERANCE = 1e-4
"""Largest difference from ONNX Runtime, relative to the largest value of a tensor."""
_SEEDS = (0, 1)


def verify(
    file: Path,
    model: onnx.ModelProto,
    graph: fx.GraphModule,
    inputs: Sequence[OnnxTensor],
    tensors: Mapping[str, fx.Node],
    nodes: Sequence[Node],
) -> float:
    """The largest relative difference of an output, on random inputs of two seeds.

    Args:
        file: the file, for messages.
        model: what ONNX Runtime is given.
        graph: the imported graph.
        inputs: the inputs of both.
        tensors: the node of the graph that computes each tensor of the file.
        nodes: the nodes that were imported, in order.

    Raises:
        ConfigError: an output differs by more than :data:`TOLERANCE`; the message names the first node that does.
            ONNX Runtime is not installed, or refuses the file.
    """
    names = [each.name for each in model.graph.output]
    largest = 0.0
    session = open_session(_content(model), file)
    for seed in _SEEDS:
        feeds = random_inputs(inputs, seed)
        expected = run_session(session, feeds, file)
        found = run_graph(graph, feeds, inputs)
        for name, one, other in zip(names, expected, found, strict=True):
            difference = relative_difference(one, other)
            if not difference <= TOLERANCE:
                raise _first_difference(file, model, graph, inputs, tensors, nodes, feeds, (name, difference))
            largest = max(largest, difference)
    return largest


def takes_any_batch(graph: fx.GraphModule, inputs: Sequence[OnnxTensor]) -> bool:
    """Whether two images at once give what they give one after the other."""
    if not inputs or not inputs[0].shape or inputs[0].shape[0] != 1:
        return False
    first, second = (random_inputs(inputs, seed) for seed in _SEEDS)
    is_batched = {each.name: each.shape[:1] == inputs[0].shape[:1] for each in inputs}
    both = {name: np.concatenate([value, second[name]]) if is_batched[name] else value for name, value in first.items()}
    second = {name: value if is_batched[name] else first[name] for name, value in second.items()}
    try:
        together = run_graph(graph, both, inputs)
    except Exception:  # whatever torch raises for a shape that holds for one image
        return False
    apart = [run_graph(graph, feeds, inputs) for feeds in (first, second)]
    return all(
        len(two) == 2 * len(one) and relative_difference(np.concatenate([one, other]), two) <= TOLERANCE
        for one, other, two in zip(*apart, together, strict=True)
        if one.ndim
    )


def random_inputs(inputs: Sequence[OnnxTensor], seed: int) -> dict[str, np.ndarray]:
    """Uniform values: in [-2, 2], as normalized images have, or bytes, or small integers."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for each in inputs:
        kind = torch.empty(0, dtype=each.dtype).numpy().dtype
        if kind == np.bool_:
            feeds[each.name] = generator.random(each.shape) < 0.5
        elif np.issubdtype(kind, np.integer):
            highest = {np.dtype(np.uint8): 256, np.dtype(np.int8): 128}.get(kind, 2)
            feeds[each.name] = generator.integers(0, highest, each.shape).astype(kind)
        else:
            feeds[each.name] = generator.uniform(-2, 2, each.shape).astype(kind)
    return feeds


def run_graph(graph: fx.GraphModule, feeds: Mapping[str, np.ndarray], inputs: Sequence[OnnxTensor]) -> list[np.ndarray]:
    """The outputs of a graph as arrays."""
    with torch.no_grad():
        outputs = graph(*(torch.from_numpy(feeds[each.name]) for each in inputs))
    return [each.numpy() for each in ([outputs] if isinstance(outputs, Tensor) else outputs)]


def relative_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Largest difference over the largest magnitude; infinite where shapes differ, or one has a NaN more."""
    if expected.shape != found.shape:
        return float("inf")
    one, other = expected.astype(np.float64), found.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if same.all():
        return 0.0
    difference = np.abs(np.where(same, 0.0, one) - np.where(same, 0.0, other)).max()
    finite = np.abs(one[np.isfinite(one)])
    scale = finite.max() if finite.size and finite.max() > 0 else 1.0
    return float("inf") if np.isnan(difference) else float(difference / scale)


def _first_difference(
    file: Path,
    model: onnx.ModelProto,
    graph: fx.GraphModule,
    inputs: Sequence[OnnxTensor],
    tensors: Mapping[str, fx.Node],
    nodes: Sequence[Node],
    feeds: Mapping[str, np.ndarray],
    seen: tuple[str, float],
) -> ConfigError:
    """The error that names the first node whose output differs."""
    outputs = [each.name for each in model.graph.output]
    computed = {name for node in model.graph.node for name in node.output}
    between = [
        name for node in nodes for name in node.outputs if name in tensors and name in computed and name not in outputs
    ]
    opened = copy.deepcopy(model)
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in between)
    expected = dict(
        zip([*outputs, *between], run_session(open_session(_content(opened), file), feeds, file), strict=True)
    )
    recorder = _Recorder(graph)
    with torch.no_grad():
        recorder.run(*(torch.from_numpy(feeds[each.name]) for each in inputs))
    for node in nodes:
        for name in node.outputs:
            value = recorder.values.get(tensors[name].name) if name in tensors and name in expected else None
            if value is None:
                continue
            difference = relative_difference(expected[name], value)
            if not difference <= TOLERANCE:
                return ConfigError(
                    f"{file}: {node} differs from ONNX Runtime by {difference:.2g} of its largest value "
                    f"({_largest(value)} here, {_largest(expected[name])} there), expected at most {TOLERANCE:g}: "
                    "report it with the file"
                )
    return ConfigError(
        f"{file}: the output {seen[0]!r} differs from ONNX Runtime by {seen[1]:.2g} of its largest value, expected at "
        f"most {TOLERANCE:g}, though no single node does: its operators amplify rounding"
    )


class _Recorder(fx.Interpreter):
    """Keeps the tensors that a graph computes, by node name."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.values: dict[str, np.ndarray] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.detach().numpy()
        return value


def _largest(value: np.ndarray) -> str:
    return f"{np.abs(value.astype(np.float64)).max():.6g}" if value.size else "nothing"


def _content(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())
