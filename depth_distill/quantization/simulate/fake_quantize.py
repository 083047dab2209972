"""Fake-quantizers as nodes of a graph: where they go, putting them there, and switching them."""

import copy
import fnmatch
import operator
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import Operation, classify, scoped_name
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer, SiteKind
from depth_distill.quantization.simulate.quantized_layers import QUANTIZED_LAYERS, QuantizedLayer
from depth_distill.quantization.target.target import NpuTarget
from depth_distill.quantization.target.validated import nearest

EnabledSites = frozenset[str]
"""Names of the quantizers that are on."""

_FUSING = ("layer", "add")  # what an NPU computes together with the activation behind it
_SATURATING = ("activation", "concat")  # what it computes together with a clip: the ends of the output's codes
_WEIGHT = "weight_quantizer"
_PREFIX = "quantizers"


@dataclass(frozen=True)
class QuantizerSite:
    """One quantizer, so one range.

    Attributes:
        name: dotted name: of the module whose output is quantized, of the module's weight, or of the module around a
            function and that function (``encoder.layer1.0.add``); unique, and the same for any target.
        kind: what is quantized; ``output`` is what leaves the network.
        nodes: names of the fx nodes whose value it quantizes; several where the target shares their scale.
    """

    name: str
    kind: SiteKind
    nodes: tuple[str, ...]


def placement(graph_module: fx.GraphModule, target: NpuTarget) -> tuple[QuantizerSite, ...]:
    """Where the target rounds to its formats, in graph order.

    The network input, every weight, and the output of every layer, activation and arithmetic operator; but nothing
    between a layer or add and the activation that the target fuses into it, and nothing behind an operator that only
    moves values, because they are on the grid already. Where the target shares scales, the tensors tied by a concat
    or add become one site.

    Raises:
        ConfigError: batch norm that was not folded, or a layer that cannot be fake-quantized.
    """
    operations = classify(graph_module)
    names = _unique_names(operations)
    sites: list[QuantizerSite] = []
    for node, operation in operations.items():
        if operation.kind == "layer" and not any(site.name == f"{node.target}.weight" for site in sites):
            _check_layer(node, graph_module)
            sites.append(QuantizerSite(f"{node.target}.weight", "weight", (node.name,)))
        if _is_rounded(node, operation, operations, target):
            kind: SiteKind = "input" if operation.kind == "input" else "activation"
            sites.append(QuantizerSite(names[node], kind, (node.name,)))
    rounded = {site.nodes[0]: site.name for site in sites if site.kind != "weight"}
    outputs = {rounded[source.name] for node in operations if node.op == "output" for source in _sources(node, rounded)}
    sites = [replace(site, kind="output") if site.name in outputs else site for site in sites]
    return _share(sites, _tied(operations, rounded, target))


def fake_quantize(
    graph_module: fx.GraphModule, target: NpuTarget, learnable: Collection[SiteKind] = ()
) -> fx.GraphModule:
    """A copy of the network that computes what the target would, up to its integer arithmetic.

    Names of modules and parameters survive: a float ``encoder.conv1.weight`` is still there and is rounded in use.
    Weight ranges follow the weights. Activation ranges are unknown until ``calibrate``, tracking or a state dict sets
    them; using them earlier is an error.

    Args:
        graph_module: a traced network without batch norm.
        target: formats and fusions.
        learnable: kinds of sites whose range is learned (LSQ); the rest passes straight-through gradients only.

    Raises:
        ConfigError: see :func:`placement`.
    """
    sites = placement(graph_module, target)
    quantized = copy.deepcopy(graph_module)
    nodes = {node.name: node for node in quantized.graph.nodes}
    for site in sites:
        if site.kind == "weight":
            _quantize_weight(quantized.get_submodule(site.name.removesuffix(".weight")), site, target, learnable)
            continue
        path = f"{_PREFIX}.{site.nodes[0]}"
        quantizer = FakeQuantizer(site.name, site.kind, target.activations, learnable=site.kind in learnable)
        quantized.add_submodule(path, quantizer)
        for name in site.nodes:
            _insert_after(nodes[name], path)
    if target.bias_dtype == "int32":
        _connect_biases(quantized)
    quantized.graph.lint()
    quantized.recompile()
    return quantized


def remove_fake_quant(quantized: fx.GraphModule) -> fx.GraphModule:
    """A copy without quantizers: what a tool chain that quantizes by itself is given.

    Modules, names, weights and biases are those of ``quantized`` as they are now, so that what a pass did to them
    (bias correction, adaptive rounding, training) reaches the file.
    """
    plain = copy.deepcopy(quantized)
    modules = dict(plain.named_modules())
    for node in list(plain.graph.nodes):
        if node.op == "call_module" and isinstance(modules[str(node.target)], FakeQuantizer):
            node.replace_all_uses_with(node.args[0])
            plain.graph.erase_node(node)
    float_types = {quantized_type: float_type for float_type, quantized_type in QUANTIZED_LAYERS.items()}
    for module in modules.values():
        if isinstance(module, QuantizedLayer):
            delattr(module, _WEIGHT)
            module.__dict__.pop("inputs", None)
            module.__class__ = float_types[type(module)]  # type: ignore[assignment]
    plain.delete_all_unused_submodules()
    plain.graph.lint()
    plain.recompile()
    return plain


def quantizers(model: nn.Module) -> dict[str, FakeQuantizer]:
    """The quantizers inside a model by the name of their site."""
    return {module.site: module for module in model.modules() if isinstance(module, FakeQuantizer)}


def select(
    model: nn.Module, sites: Iterable[str] | None = None, kinds: Collection[SiteKind] | None = None
) -> dict[str, FakeQuantizer]:
    """Quantizers whose name fits one of the patterns (``encoder.*``) and whose kind is one of ``kinds``; None is all.

    Raises:
        ConfigError: a pattern that fits no site; the message names the nearest.
    """
    every = quantizers(model)
    chosen = set(every)
    if sites is not None:
        chosen = set()
        for pattern in sites:
            found = fnmatch.filter(every, pattern)
            if not found:
                raise ConfigError(f"no quantizer is called {pattern!r}; {nearest(pattern, list(every))}")
            chosen.update(found)
    return {
        name: quantizer
        for name, quantizer in every.items()
        if name in chosen and (kinds is None or quantizer.kind in kinds)
    }


def set_enabled(
    model: nn.Module,
    enabled: bool,
    sites: Iterable[str] | None = None,
    kinds: Collection[SiteKind] | None = None,
) -> None:
    """Switch quantizers on or off; costs no more than setting an attribute of each.

    Raises:
        ConfigError: see :func:`select`.
    """
    for quantizer in select(model, sites, kinds).values():
        quantizer.enabled = enabled


@contextmanager
def preserve_quantizer_state(model: nn.Module) -> Iterator[None]:
    """Give every quantizer its switches back when the block ends."""
    before = [(each, each.enabled, each.in_half, each.tracking) for each in quantizers(model).values()]
    try:
        yield
    finally:
        for quantizer, enabled, half, tracking in before:
            quantizer.enabled, quantizer.in_half, quantizer.tracking = enabled, half, tracking


def requantize_moves(quantized: fx.GraphModule) -> fx.GraphModule:
    """A copy in which the output of every operator that only moves values goes through its input's quantizer again.

    The values do not change. ONNX Runtime and other readers of QDQ files run an operator in INT8 only where a
    QuantizeLinear follows it (max pooling, nearest upsampling).
    """
    quantized = copy.deepcopy(quantized)
    operations = classify(quantized)
    modules = dict(quantized.named_modules())
    for node, operation in operations.items():
        unpacked = any(user.target is operator.getitem for user in node.users)  # a tuple, as chunk returns it
        if operation.kind != "move" or unpacked:
            continue
        source = node.all_input_nodes[0]
        while source in operations and operations[source].kind == "identity":
            source = source.all_input_nodes[0]
        if source.op == "call_module" and isinstance(modules[str(source.target)], FakeQuantizer):
            _insert_after(node, str(source.target))
    quantized.recompile()
    return quantized


def _unique_names(operations: dict[fx.Node, Operation]) -> dict[fx.Node, str]:
    names: dict[fx.Node, str] = {}
    taken = {scoped_name(node) for node in operations if node.op == "call_module"}
    used: set[str] = set()
    for node in operations:
        name, count = scoped_name(node), 0
        while name in used or (count and name in taken):
            count += 1
            name = f"{scoped_name(node)}_{count}"
        used.add(name)
        names[node] = name
    return names


def _is_rounded(node: fx.Node, operation: Operation, operations: dict[fx.Node, Operation], target: NpuTarget) -> bool:
    if operation.kind in ("move", "identity", "not_a_tensor", "output"):
        return False
    if operation.kind in (*_FUSING, *_SATURATING):
        users = list(node.users)
        while len(users) == 1 and operations[users[0]].kind == "identity":
            users = list(users[0].users)
        behind = operations[users[0]].activation if len(users) == 1 else None
        if behind in target.fused_activations and (operation.kind in _FUSING or behind == "clip"):
            return False
    return True


def _sources(node: fx.Node, rounded: Collection[str]) -> Iterator[fx.Node]:
    """The rounded nodes that the inputs of ``node`` come from, through whatever only moves values."""
    for source in node.all_input_nodes:
        if source.name in rounded:
            yield source
        else:
            yield from _sources(source, rounded)


def _tied(operations: dict[fx.Node, Operation], rounded: dict[str, str], target: NpuTarget) -> list[list[str]]:
    """Names of sites that must share a scale, one list for each concat and add."""
    ties = []
    for node, operation in operations.items():
        if operation.kind in target.shared_scales:
            names = [rounded[source.name] for source in _sources(node, rounded)]
            if operation.kind == "concat":
                names.append(rounded[node.name])
            ties.append(names)
    return ties


def _share(sites: list[QuantizerSite], ties: list[list[str]]) -> tuple[QuantizerSite, ...]:
    groups = {site.name: {site.name} for site in sites}
    for names in ties:
        merged = set().union(*(groups[name] for name in names))
        for name in merged:
            groups[name] = merged
    shared = []
    for site in sites:
        members = [other for other in sites if other.name in groups[site.name]]
        if site is not members[0]:
            continue
        kinds = {member.kind for member in members}
        kind = next(each for each in ("output", "input", site.kind) if each in kinds)
        shared.append(QuantizerSite(site.name, kind, tuple(name for each in members for name in each.nodes)))
    return tuple(shared)


def _check_layer(node: fx.Node, graph_module: fx.GraphModule) -> None:
    layer = graph_module.get_submodule(str(node.target))
    if type(layer) not in QUANTIZED_LAYERS:
        expected = ", ".join(cls.__name__ for cls in QUANTIZED_LAYERS)
        raise ConfigError(f"{node.target} is a {type(layer).__name__}; expected one of {expected}")


def _quantize_weight(layer: nn.Module, site: QuantizerSite, target: NpuTarget, learnable: Collection[SiteKind]) -> None:
    weight = cast(Tensor, layer.weight)
    # Output channels come second in a transposed convolution.
    channel_dim = int(isinstance(layer, nn.ConvTranspose2d))
    quantizer = FakeQuantizer(
        site.name, "weight", target.weights, weight.shape[channel_dim], channel_dim, "weight" in learnable
    ).to(weight.device)
    quantizer.set_range(*quantizer.range_of(weight))
    layer.__class__ = QUANTIZED_LAYERS[type(layer)]  # name, parameters and hooks stay
    layer.add_module(_WEIGHT, quantizer)


def _connect_biases(quantized: fx.GraphModule) -> None:
    """Tell every layer the quantizer of its input, unless its calls read different ones."""
    modules = dict(quantized.named_modules())
    operations = classify(quantized)
    inputs: dict[str, set[FakeQuantizer]] = {}
    for node, operation in operations.items():
        if operation.kind == "layer":
            source = node.all_input_nodes[0]
            while operations[source].kind in ("identity", "move"):
                source = source.all_input_nodes[0]
            quantizer = modules[str(source.target)]
            assert isinstance(quantizer, FakeQuantizer)
            inputs.setdefault(str(node.target), set()).add(quantizer)
    for name, found in inputs.items():
        layer = modules[name]
        assert isinstance(layer, QuantizedLayer)
        layer.inputs = tuple(found) if len(found) == 1 else ()


def _insert_after(node: fx.Node, path: str) -> None:
    with node.graph.inserting_after(node):
        quantizer = node.graph.call_module(path, (node,))
    node.replace_all_uses_with(quantizer, delete_user_cb=lambda user: user is not quantizer)
