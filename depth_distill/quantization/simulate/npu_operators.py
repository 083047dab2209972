"""The operators of a fake-quantized network as an NPU runs them, and the quantizers around each."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import Operation, classify, scoped_name
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import EnabledSites
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer
from depth_distill.suggestions import did_you_mean

_TRANSPARENT = ("move", "identity")


@dataclass(frozen=True)
class NpuOperator:
    """A layer, add, concat or other arithmetic, with the activation that is fused into it.

    Attributes:
        name: name of the module, or of a function and the module around it, as in the names of sites.
        is_layer: whether the operator has a weight.
        reads: activation sites of the inputs.
        writes: activation site of the output; None if it is not rounded.
        sources: names of the operators that the inputs come from.
        parameters: number of weights and number of biases.
        weight_bits: bits of a weight's code.
    """

    name: str
    is_layer: bool
    reads: frozenset[str]
    writes: str | None
    sources: frozenset[str]
    parameters: tuple[int, int]
    weight_bits: int = 8

    @property
    def weight(self) -> str | None:
        """Site of the operator's weight; None if it has none."""
        return f"{self.name}.weight" if self.is_layer else None


def npu_operators(quantized: fx.GraphModule) -> tuple[NpuOperator, ...]:
    """The operators of a network from ``fake_quantize``, in graph order; a layer that is called twice is one."""
    grouping = _OperatorGrouping(quantized)
    found: dict[str, NpuOperator] = {}
    for node, members in grouping.members.items():
        name = grouping.names[node]
        reads, sources = grouping.reads(node), grouping.sources(node)
        writes = grouping.writes(members)
        module = grouping.module(node)
        parameters, weight_bits = (0, 0), 8
        if isinstance(module, QuantizedLayer):
            weight_bits = module.weight_quantizer.tensor_format.bits
            parameters = (module.weight.numel(), 0 if module.bias is None else module.bias.numel())
        if name in found:
            reads, sources = reads | found[name].reads, sources | found[name].sources
        is_layer = isinstance(module, QuantizedLayer)
        found[name] = NpuOperator(name, is_layer, reads, writes, sources, parameters, weight_bits)
    return tuple(found.values())


def enabled_sites_for(operators: Collection[NpuOperator], float_layers: Collection[str]) -> EnabledSites:
    """The quantizers that are on if some layers are computed in floating point and the others in integers.

    An add, concat or other operator without weights is computed in floating point if one of its inputs is the output
    of a floating-point operator. A tensor is rounded unless its producer and all its consumers are in floating point:
    the inputs and the output of an integer operator lie on their grids.

    Raises:
        ConfigError: a name is no layer; the message has the nearest one.
    """
    layers = [each.name for each in operators if each.is_layer]
    for name in float_layers:
        if name not in layers:
            raise ConfigError(f"the network has no quantized layer {name!r}; {did_you_mean(name, layers)}")
    in_float = set(float_layers)
    on: set[str] = set()
    for each in operators:
        if not each.is_layer and not in_float.isdisjoint(each.sources):
            in_float.add(each.name)
        if each.name not in in_float:
            on |= each.reads | {site for site in (each.weight, each.writes) if site is not None}
    return frozenset(on)


class _OperatorGrouping:
    """Assigns nodes to operators: an activation behind an operator, with no quantizer between, is fused into it."""

    def __init__(self, quantized: fx.GraphModule) -> None:
        self.modules = dict(quantized.named_modules())
        self.operations = classify(quantized)
        self.names: dict[fx.Node, str] = {}
        self.members: dict[fx.Node, list[fx.Node]] = {}  # the nodes of each operator, by its first node
        self._first: dict[fx.Node, fx.Node] = {}
        taken: set[str] = set()
        for node, operation in self.operations.items():
            if operation.kind in ("input", "output", "not_a_tensor", *_TRANSPARENT) or self.site(node) is not None:
                continue
            fused = [self._first[source] for source in self._origins(node) if source in self._first]
            if operation.kind == "activation" and len(fused) == 1:
                self._first[node] = fused[0]
                self.members[fused[0]].append(node)
                continue
            self._first[node] = node
            self.members[node] = [node]
            name, count = scoped_name(node), 0
            while self.module(node) is None and name in taken:
                count += 1
                name = f"{scoped_name(node)}_{count}"
            taken.add(name)
            self.names[node] = name

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def site(self, node: fx.Node) -> str | None:
        module = self.module(node)
        return module.site if isinstance(module, FakeQuantizer) else None

    def reads(self, node: fx.Node) -> frozenset[str]:
        return frozenset(site for origin in self._origins(node) if (site := self.site(origin)) is not None)

    def writes(self, members: list[fx.Node]) -> str | None:
        sites = [self.site(user) for user in _users_through(members[-1], self.operations)]
        return next((site for site in sites if site is not None), None)

    def sources(self, node: fx.Node) -> frozenset[str]:
        found = set()
        for origin in self._origins(node):
            while self.site(origin) is not None:
                (origin,) = self._origins(origin)
            if origin in self._first:
                found.add(self.names[self._first[origin]])
        return frozenset(found)

    def _origins(self, node: fx.Node) -> list[fx.Node]:
        """The quantizers, operators and inputs that a node's inputs come from, traced back through moves of values."""
        origins = []
        for source in node.all_input_nodes:
            if self.operations[source].kind in _TRANSPARENT:
                origins += self._origins(source)
            elif self.operations[source].kind != "not_a_tensor":
                origins.append(source)
        return origins


def _users_through(node: fx.Node, operations: dict[fx.Node, Operation]) -> Iterator[fx.Node]:
    for user in node.users:
        yield user
        if operations[user].kind == "identity":
            yield from _users_through(user, operations)
