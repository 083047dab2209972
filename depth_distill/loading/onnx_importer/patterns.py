"""Groups of nodes that are one layer or activation: exporters write them apart."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from depth_distill.loading.onnx_importer.nodes import Node
from depth_distill.loading.onnx_importer.operators.convolutions import FUSED_BIAS

_BIASED = ("Conv", "ConvTranspose", "MatMul")


@dataclass(frozen=True)
class _Match:
    """What stands for the last node of a pattern, and the tensors inside it, which nothing else may read."""

    node: Node
    inside: tuple[str, ...]


class Patterns:
    """Finds the patterns of a file.

    A pattern is only put together where nothing outside reads what lies inside it.

    Args:
        nodes: the nodes of the file, in order.
        constants: the tensors that are known, by name.
        outputs: names of the outputs of the file.
    """

    def __init__(self, nodes: Sequence[Node], constants: Mapping[str, np.ndarray], outputs: Iterable[str]) -> None:
        self.nodes = nodes
        self._constants = constants
        self._writers = {name: node for node in self.nodes for name in node.outputs if name}
        self._reads = Counter(name for node in self.nodes for name in node.inputs if name)
        self._reads.update(outputs)
        for node in self.nodes:
            for value in node.attributes.values():
                if isinstance(value, onnx.GraphProto):  # a branch reads tensors around it
                    self._reads.update(name for inner in value.node for name in inner.input)

    def put_together(self) -> list[Node]:
        """The nodes of the file, with every pattern replaced by one node."""
        matches: dict[int, _Match] = {}
        inside: set[str] = set()
        for position in reversed(range(len(self.nodes))):  # the longest pattern ends last
            node = self.nodes[position]
            if inside.intersection(node.outputs):
                continue
            for find in (_gelu, _hard_swish, _hard_sigmoid, _gated, _bias, _affine):
                match = find(node, self)
                if match is not None and self._is_closed(match):
                    matches[position] = match
                    inside.update(match.inside)
                    break
        return [
            matches[position].node if position in matches else node
            for position, node in enumerate(self.nodes)
            if not inside.intersection(node.outputs)
        ]

    def writer(self, name: str, *operators: str) -> Node | None:
        """The node that writes a tensor, if it is one of ``operators``."""
        node = self._writers.get(name)
        return node if node is not None and node.operator in operators else None

    def number(self, name: str) -> float | None:
        """A constant with a single value; None for any other tensor."""
        value = self.constant(name)
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def constant(self, name: str) -> np.ndarray | None:
        """A constant; None for a tensor that the network computes."""
        return self._constants.get(name)

    def with_number(self, node: Node, number: float, tolerance: float = 1e-6) -> str | None:
        """The other operand of a node that has the constant ``number`` as one of its two."""
        for one, other in ((0, 1), (1, 0)):
            found = self.number(node.inputs[one])
            if found is not None and abs(found - number) <= tolerance * max(1.0, abs(number)):
                return node.inputs[other]
        return None

    def is_read_once(self, name: str) -> bool:
        """Whether a single node reads a tensor."""
        return self._reads[name] == 1

    def _is_closed(self, match: _Match) -> bool:
        used: Counter[str] = Counter()
        writers = [self._writers[name] for name in match.inside]
        for node in [*writers, self._writers[match.node.outputs[0]]]:
            used.update(node.inputs)
        return all(self._reads[name] == used[name] for name in match.inside)


def _gated(node: Node, patterns: Patterns) -> _Match | None:
    """``x * gate(x)``: SiLU, hardswish, Mish."""
    if node.operator != "Mul":
        return None
    for one, other in ((0, 1), (1, 0)):
        source = node.inputs[one]
        gate = patterns.writer(node.inputs[other], "Sigmoid", "HardSigmoid", "Tanh")
        if gate is None:
            continue
        if gate.operator == "Sigmoid" and gate.inputs[0] == source:
            return _match(node, "Silu", source, gate)
        is_torch = _is_sixth(gate.attributes.get("alpha", 0.2)) and gate.attributes.get("beta", 0.5) == 0.5
        if gate.operator == "HardSigmoid" and gate.inputs[0] == source and is_torch:
            return _match(node, "HardSwish", source, gate)
        if gate.operator == "Tanh":
            softplus = patterns.writer(gate.inputs[0], "Softplus")
            if softplus is not None and softplus.inputs[0] == source:
                return _match(node, "Mish", source, gate, softplus)
    return None


def _hard_sigmoid(node: Node, patterns: Patterns) -> _Match | None:
    """``relu6(x + 3) / 6``."""
    found = _sixth_of(node, patterns)
    clip = patterns.writer(found, "Clip") if found is not None else None
    shifted = _relu6_of_shifted(clip, patterns)
    if clip is None or shifted is None:
        return None
    return _match(node, "HardSigmoidOfTorch", shifted[0], clip, shifted[1])


def _hard_swish(node: Node, patterns: Patterns) -> _Match | None:
    """``x * (relu6(x + 3) / 6)``, with the division inside or outside."""
    quotient = _sixth_of(node, patterns)
    product = patterns.writer(quotient, "Mul") if quotient is not None else (node if node.operator == "Mul" else None)
    if product is None:
        return None
    for one, other in ((0, 1), (1, 0)):
        source, gate = product.inputs[one], product.inputs[other]
        divided = None if product is not node else patterns.writer(gate, "Div", "Mul")
        clipped = _sixth_of(divided, patterns) if divided is not None else (gate if product is not node else None)
        clip = patterns.writer(clipped, "Clip") if clipped is not None else None
        shifted = _relu6_of_shifted(clip, patterns)
        if clip is None or shifted is None or shifted[0] != source:
            continue
        between = [each for each in (divided, product if product is not node else None) if each is not None]
        return _match(node, "HardSwish", source, clip, shifted[1], *between)
    return None


def _gelu(node: Node, patterns: Patterns) -> _Match | None:
    """``0.5 x (1 + erf(x / sqrt(2)))``, whichever product comes first."""
    if node.operator != "Mul":
        return None
    half_of = patterns.with_number(node, 0.5)
    outer = patterns.writer(half_of, "Mul") if half_of is not None else None
    product = outer or node
    for one, other in ((0, 1), (1, 0)):
        inside = [each for each in (outer,) if each is not None]
        source, gate = product.inputs[one], product.inputs[other]
        if outer is None:  # the half is on one of the two factors
            halved = patterns.writer(source, "Mul", "Div")
            gated = patterns.writer(gate, "Mul", "Div")
            if halved is not None and (found := _half(halved, patterns)) is not None:
                source = found
                inside.append(halved)
            elif gated is not None and (found := _half(gated, patterns)) is not None:
                gate = found
                inside.append(gated)
            else:
                continue
        one_plus = patterns.writer(gate, "Add")
        erf_name = patterns.with_number(one_plus, 1.0) if one_plus is not None else None
        erf = patterns.writer(erf_name, "Erf") if erf_name is not None else None
        scaled = patterns.writer(erf.inputs[0], "Div", "Mul") if erf is not None else None
        if one_plus is None or erf is None or scaled is None:
            continue
        factor = patterns.number(scaled.inputs[1])
        is_root = factor is not None and abs(factor - (2**0.5 if scaled.operator == "Div" else 0.5**0.5)) < 1e-5
        if scaled.inputs[0] == source and is_root:
            return _match(node, "Gelu", source, one_plus, erf, scaled, *inside)
    return None


def _bias(node: Node, patterns: Patterns) -> _Match | None:
    """A constant per channel that is added to a layer without bias."""
    if node.operator != "Add":
        return None
    for one, other in ((0, 1), (1, 0)):
        layer = patterns.writer(node.inputs[one], *_BIASED)
        value = patterns.constant(node.inputs[other])
        if layer is None or value is None or len(layer.inputs) > 2 or patterns.constant(layer.inputs[1]) is None:
            continue
        weight = patterns.constant(layer.inputs[1])
        assert weight is not None
        if layer.operator == "MatMul":
            fits = weight.ndim == 2 and value.shape[-1:] == weight.shape[1:] and value.ndim == 1
        else:
            channels = weight.shape[0]
            if layer.operator == "ConvTranspose":
                channels = weight.shape[1] * layer.attributes.get("group", 1)
            rank = weight.ndim
            shape = (1,) * (rank - value.ndim) + value.shape
            fits = value.ndim <= rank and shape == (1, channels) + (1,) * (rank - 2)
        if fits:
            merged = replace(
                layer, outputs=node.outputs, attributes={**layer.attributes, FUSED_BIAS: node.inputs[other]}, proto=None
            )
            return _Match(merged, (layer.outputs[0],))
    return None


def _affine(node: Node, patterns: Patterns) -> _Match | None:
    """Factors and shifts per channel behind a convolution or a batch norm, as Caffe and TensorFlow write them."""
    chain: list[Node] = []
    factor, shift = np.ones(1), np.zeros(1)
    name = node.outputs[0]
    while (step := patterns.writer(name, "Add", "Sub", "Mul", "Div")) is not None:
        constant = patterns.constant(step.inputs[1])
        source = step.inputs[0]
        if constant is None and step.operator in ("Add", "Mul"):
            constant, source = patterns.constant(step.inputs[0]), step.inputs[1]
        if constant is None or constant.dtype != np.float32 or not _is_per_channel(constant):
            break
        value = constant.reshape(-1).astype(np.float64)
        if {len(value), len(factor), len(shift)} - {1, max(len(value), len(factor), len(shift))}:
            break
        # y = factor * step(x) + shift
        if step.operator in ("Add", "Sub"):
            shift = shift + factor * (value if step.operator == "Add" else -value)
        else:
            factor = factor * (value if step.operator == "Mul" else 1 / value)
        chain.append(step)
        name = source
    before = patterns.writer(name, "Conv", "ConvTranspose", "BatchNormalization") if chain else None
    channels = _channels(before, patterns) if before is not None else None
    if before is None or channels is None or max(len(factor), len(shift)) != channels or channels == 1:
        return None
    is_norm = before.operator == "BatchNormalization"
    named = before if is_norm else node
    attributes = {
        "factor": np.broadcast_to(factor, channels),
        "shift": np.broadcast_to(shift, channels),
        "epsilon": before.attributes.get("epsilon", 1e-5) if is_norm else 0.0,
    }
    inputs = before.inputs if is_norm else (name,)
    inside = [each.outputs[0] for each in chain[1:]] + [name]
    if not is_norm:
        inside.pop()
        if not patterns.is_read_once(name):
            return None
    return _Match(Node("ChannelAffine", named.name, inputs, node.outputs, attributes, named.scopes), tuple(inside))


def _is_per_channel(constant: np.ndarray) -> bool:
    """Whether a constant has one value, or the shape ``(C, 1, 1)`` or ``(1, C, 1, 1)``."""
    return constant.size == 1 or (constant.ndim in (3, 4) and constant.size == constant.shape[-3])


def _channels(node: Node, patterns: Patterns) -> int | None:
    weight = patterns.constant(node.inputs[1])
    if weight is None or weight.ndim not in (1, 4):  # a vector belongs to a batch norm
        return None
    if node.operator == "ConvTranspose":
        return weight.shape[1] * int(node.attributes.get("group", 1))
    return len(weight)


def _sixth_of(node: Node, patterns: Patterns) -> str | None:
    """``y`` of ``y / 6`` or ``y * (1 / 6)``."""
    if node.operator == "Div":
        return node.inputs[0] if patterns.number(node.inputs[1]) == 6 else None
    return patterns.with_number(node, 1 / 6) if node.operator == "Mul" else None


def _half(node: Node, patterns: Patterns) -> str | None:
    if node.operator == "Div":
        return node.inputs[0] if patterns.number(node.inputs[1]) == 2 else None
    return patterns.with_number(node, 0.5)


def _relu6_of_shifted(clip: Node | None, patterns: Patterns) -> tuple[str, Node] | None:
    """``x`` and the addition of ``relu6(x + 3)``."""
    if clip is None:
        return None
    limits = [clip.attributes.get(name) for name in ("min", "max")]
    if len(clip.inputs) == 3:
        limits = [patterns.number(name) if name else None for name in clip.inputs[1:]]
    shifted = patterns.writer(clip.inputs[0], "Add")
    source = patterns.with_number(shifted, 3.0) if shifted is not None else None
    if limits != [0, 6] or source is None or shifted is None:
        return None
    return source, shifted


def _is_sixth(value: float) -> bool:
    return abs(value - 1 / 6) < 1e-6


def _match(node: Node, operator: str, source: str, *inside: Node) -> _Match:
    fused = Node(operator, node.name, (source,), node.outputs, {}, node.scopes)
    return _Match(fused, tuple(each.outputs[0] for each in inside))
