"""Parameters of a network that no quantizer would round."""

from collections.abc import Collection

from torch import fx, nn

from depth_distill.quantization.graph.node_kinds import classify


def unquantized_weights(graph_module: fx.GraphModule, sites: Collection[str]) -> list[str]:
    """Names of the parameters in use that have two or more dimensions and no quantizer.

    Vectors are exempt: a bias is added in int32, and the factors of a normalization or a PReLU are constants of an
    operator whose output is rounded.

    Args:
        graph_module: a traced network without batch norm.
        sites: names of the sites that have a quantizer, from ``placement``.
    """
    found = []
    for node, operation in classify(graph_module).items():
        if node.op == "call_module" and operation.kind not in ("identity", "move"):
            module = graph_module.get_submodule(str(node.target))
            owned: dict[str, object] = {f"{node.target}.{name}": value for name, value in module.named_parameters()}
        elif node.op == "get_attr":
            owned = {str(node.target): _attribute(graph_module, str(node.target))}
        else:
            continue
        found += [
            name
            for name, value in owned.items()
            if isinstance(value, nn.Parameter) and value.ndim > 1 and name not in sites
        ]
    return list(dict.fromkeys(found))


def float_norms(graph_module: fx.GraphModule) -> dict[str, int]:
    """Number of modules by class that compute in float between two roundings, with float factors of their own.

    These are normalizations that measure each image (``GroupNorm``, ``LayerNorm``, ``InstanceNorm2d``): no target here
    has them in integers.
    """
    counts: dict[str, int] = {}
    for node in graph_module.graph.nodes:
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm | nn.modules.instancenorm._InstanceNorm):
            name = type(module).__name__
            counts[name] = counts.get(name, 0) + 1
    return counts


def _attribute(graph_module: fx.GraphModule, path: str) -> object:
    around, _, name = path.rpartition(".")
    return getattr(graph_module.get_submodule(around), name)
