"""Fake-quantizers as nodes of a graph: placing, inserting, removing and switching them."""

import copy
import fnmatch
import operator
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, fx, nn

from depth_distill.device import device_of
from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import Operation, classify, scoped_name
from depth_distill.quantization.graph.substituted import restore, substitute_in_place
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer, SiteKind
from depth_distill.quantization.simulate.quantized_layers import QUANTIZED_LAYERS, QuantizedLayer
from depth_distill.quantization.target.target import NpuTarget, TensorFormat
from depth_distill.suggestions import did_you_mean

EnabledSites = frozenset[str]
"""Names of the quantizers that are on."""

_FUSING = ("layer", "add")  # an NPU fuses the activation behind these into them
_SATURATING = ("activation", "concat")  # an NPU fuses a clip into these, as the range of their output codes
_WEIGHT = "weight_quantizer"
_PREFIX = "quantizers"


@dataclass(frozen=True)
class QuantizerSite:
    """One quantizer, and so one range.

    Attributes:
        name: dotted name of the quantized tensor: a module, for its output; a module's weight; or a function and the
            module around it (``encoder.layer1.0.add``). Unique, and the same for every target.
        kind: kind of the tensor; ``output`` is an output of the network.
        nodes: names of the fx nodes whose values are quantized; several if the target shares their scale.
    """

    name: str
    kind: SiteKind
    nodes: tuple[str, ...]


def placement(graph_module: fx.GraphModule, target: NpuTarget) -> tuple[QuantizerSite, ...]:
    """The sites where the target rounds to its formats, in graph order.

    These are the network input, every weight, and the output of every layer, activation and arithmetic operator.
    There is no site between a layer or add and the activation that the target fuses into it, and none behind an
    operator that only moves values, because these are on the grid already. If the target shares scales, the tensors
    tied by a concat or add are one site.

    Raises:
        ConfigError: a batch norm is not folded, or a layer cannot be fake-quantized.
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
    """A copy of the network that computes what the target computes, except for its integer arithmetic.

    Modules and parameters keep their names: ``encoder.conv1.weight`` stays float and is rounded in use. Weight ranges
    follow the weights. Activation ranges are unknown until ``calibrate``, tracking or a state dict sets them; running
    the network earlier is an error.

    Activations that the target substitutes are computed as it does, whether quantizers are on or off: a tool chain
    replaces an operator when it reads the file, before it calibrates, and in every precision.

    Args:
        graph_module: a traced network without batch norm.
        target: NPU whose formats and fusions are simulated.
        learnable: kinds of sites whose range is learned (LSQ); the others have straight-through gradients only.

    Raises:
        ConfigError: see :func:`placement`; or the target has a dtype for a tensor that is not there.
    """
    sites = placement(graph_module, target)
    formats = _formats(sites, target)
    quantized = copy.deepcopy(graph_module)
    nodes = {node.name: node for node in quantized.graph.nodes}
    for site in sites:
        if site.kind == "weight":
            layer = quantized.get_submodule(site.name.removesuffix(".weight"))
            _quantize_weight(layer, site, formats[site.name], learnable)
            continue
        path = f"{_PREFIX}.{site.nodes[0]}"
        quantizer = FakeQuantizer(site.name, site.kind, formats[site.name], learnable=site.kind in learnable)
        quantized.add_submodule(path, quantizer.to(device_of(graph_module)))
        for name in site.nodes:
            _insert_after(nodes[name], path)
    if target.substituted:
        substitute_in_place(quantized, target.substitutions, target.operators.max_opset)
    if target.bias_dtype == "int32":
        _connect_biases(quantized)
    quantized.graph.lint()
    quantized.recompile()
    return quantized


def remove_fake_quant(quantized: fx.GraphModule) -> fx.GraphModule:
    """A float copy without quantizers, for a tool chain that quantizes by itself.

    It has the modules, names, and current weights and biases of ``quantized``, so that bias correction, adaptive
    rounding or training take effect in the exported file. Activations are the true ones: it is the tool chain that
    substitutes them.
    """
    plain = copy.deepcopy(quantized)
    restore(plain)
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


def without_substitutions(quantized: fx.GraphModule, sites: Collection[str] | None = None) -> fx.GraphModule:
    """A copy that computes every activation itself, on the same grids: the network that is in a file.

    Args:
        quantized: network from :func:`fake_quantize`; it is not changed.
        sites: sites of the activations to put back; all unless given.
    """
    plain = copy.deepcopy(quantized)
    restore(plain, sites)
    return plain


def quantizers(model: nn.Module) -> dict[str, FakeQuantizer]:
    """The quantizers of a model by the name of their site."""
    return {module.site: module for module in model.modules() if isinstance(module, FakeQuantizer)}


def select(
    model: nn.Module, sites: Iterable[str] | None = None, kinds: Collection[SiteKind] | None = None
) -> dict[str, FakeQuantizer]:
    """Quantizers whose name matches a pattern (``encoder.*``) and whose kind is one of ``kinds``; None matches all.

    Raises:
        ConfigError: a pattern matches no site; the message names the nearest one.
    """
    every = quantizers(model)
    chosen = set(every)
    if sites is not None:
        chosen = set()
        for pattern in sites:
            found = fnmatch.filter(every, pattern)
            if not found:
                raise ConfigError(f"no quantizer is called {pattern!r}; {did_you_mean(pattern, list(every))}")
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
    """Switch quantizers on or off.

    Raises:
        ConfigError: see :func:`select`.
    """
    for quantizer in select(model, sites, kinds).values():
        quantizer.enabled = enabled


@contextmanager
def preserve_quantizer_state(model: nn.Module) -> Iterator[None]:
    """Restore the switches of every quantizer when the block ends."""
    before = [(each, each.enabled, each.in_half, each.tracking) for each in quantizers(model).values()]
    try:
        yield
    finally:
        for quantizer, enabled, half, tracking in before:
            quantizer.enabled, quantizer.in_half, quantizer.tracking = enabled, half, tracking


def requantize_moves(quantized: fx.GraphModule) -> fx.GraphModule:
    """A copy that applies the quantizer of its input again to the output of every operator that only moves values.

    The values do not change. ONNX Runtime and other readers of QDQ files run such an operator (max pooling, nearest
    upsampling) in INT8 only if a QuantizeLinear follows it.
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
    """The rounded nodes that the inputs of ``node`` come from, traced back through operators that only move values."""
    for source in node.all_input_nodes:
        if source.name in rounded:
            yield source
        else:
            yield from _sources(source, rounded)


def _tied(operations: dict[fx.Node, Operation], rounded: dict[str, str], target: NpuTarget) -> list[list[str]]:
    """Names of the sites that must share a scale, one list per concat and add."""
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


def _formats(sites: Iterable[QuantizerSite], target: NpuTarget) -> dict[str, TensorFormat]:
    """The format of every site: that of its kind, in the dtype that the target has for it alone."""
    formats = {site.name: target.weights if site.kind == "weight" else target.activations for site in sites}
    for pattern, dtype in target.dtypes.items():
        found = fnmatch.filter(formats, pattern)
        if not found:
            raise ConfigError(
                f"target {target.name}: dtypes: no tensor is called {pattern!r}; {did_you_mean(pattern, list(formats))}"
            )
        for name in found:
            formats[name] = replace(formats[name], dtype=dtype)
    return formats


def _quantize_weight(
    layer: nn.Module, site: QuantizerSite, tensor_format: TensorFormat, learnable: Collection[SiteKind]
) -> None:
    weight = cast(Tensor, layer.weight)
    # Output channels come second in a transposed convolution.
    channel_dim = int(isinstance(layer, nn.ConvTranspose2d))
    quantizer = FakeQuantizer(
        site.name, "weight", tensor_format, weight.shape[channel_dim], channel_dim, "weight" in learnable
    ).to(weight.device)
    quantizer.set_range(*quantizer.range_of(weight))
    layer.__class__ = QUANTIZED_LAYERS[type(layer)]  # name, parameters and hooks stay
    layer.add_module(_WEIGHT, quantizer)


def _connect_biases(quantized: fx.GraphModule) -> None:
    """Set the input quantizer of every layer, except layers whose calls read different quantizers."""
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
