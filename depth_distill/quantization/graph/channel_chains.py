"""Runs of layers whose channels can change places without anybody outside noticing."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from depth_distill.quantization.graph.node_kinds import Operation, classify, operation_name
from depth_distill.quantization.graph.trace import calls_by_module

_POOLS = {
    "maxpool2d", "avgpool2d", "adaptiveavgpool2d", "adaptivemaxpool2d", "upsample", "upsamplingnearest2d",
    "upsamplingbilinear2d", "interpolate", "zeropad2d", "reflectionpad2d", "replicationpad2d",
}  # fmt: skip


@dataclass(frozen=True)
class ChannelChain:
    """A dense convolution, what computes channel by channel behind it, and the dense layers that read the result.

    Attributes:
        nodes: from the first convolution to the last tensor, in order; each but the last is read by the next only.
        layers: the nodes that are convolutions: the first is dense, any others depthwise.
        readers: the dense convolutions that read the last tensor, and nothing else does.
    """

    nodes: tuple[fx.Node, ...]
    layers: tuple[fx.Node, ...]
    readers: tuple[fx.Node, ...]

    @property
    def name(self) -> str:
        """Path of the first convolution."""
        return str(self.layers[0].target)


def channel_chains(graph_module: fx.GraphModule) -> tuple[tuple[ChannelChain, ...], dict[str, str]]:
    """All chains in graph order, and why a dense convolution starts none, by its path.

    Inside a chain channels may be permuted, and shared out among several tensors: no layer of it mixes them, and the
    columns of its readers can be permuted along. In an inverted bottleneck (Sandler et al. 2018) that is the expansion,
    its depthwise convolution and both activations, with the projection as the reader.
    """
    search = _Search(graph_module)
    chains: list[ChannelChain] = []
    left: dict[str, str] = {}
    for node in graph_module.graph.nodes:
        if search.is_dense(node):
            found = search.chain(node)
            if isinstance(found, ChannelChain):
                chains.append(found)
            else:
                left[str(node.target)] = found
    return tuple(chains), left


class _Search:
    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self.operations: Mapping[fx.Node, Operation] = classify(graph_module)
        self.calls = calls_by_module(graph_module)
        owners: dict[int, int] = {}
        for _, parameter in graph_module.named_parameters(remove_duplicate=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        self.owners = owners

    def layer(self, node: fx.Node) -> nn.Conv2d | nn.ConvTranspose2d | None:
        """The convolution that a node, and no other, calls, with parameters of its own."""
        if node.op != "call_module" or len(self.calls[str(node.target)]) != 1:
            return None
        module = self.graph_module.get_submodule(str(node.target))
        if type(module) not in (nn.Conv2d, nn.ConvTranspose2d):
            return None
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        return module if all(self.owners[id(each)] == 1 for each in module.parameters()) else None

    def is_dense(self, node: fx.Node) -> bool:
        layer = self.layer(node)
        return layer is not None and layer.groups == 1

    def is_depthwise(self, node: fx.Node) -> bool:
        layer = self.layer(node)
        return layer is not None and layer.groups == layer.in_channels == layer.out_channels > 1

    def chain(self, first: fx.Node) -> ChannelChain | str:
        nodes, layers = [first], [first]
        while True:
            users = list(nodes[-1].users)
            if users and all(self.is_dense(user) for user in users):
                return ChannelChain(tuple(nodes), tuple(layers), tuple(users))
            if len(users) != 1:
                return f"{nodes[-1].name} is read by {', '.join(user.name for user in users)}"
            if self.is_depthwise(users[0]):
                layers.append(users[0])
            elif not self._goes_channel_by_channel(users[0]):
                return f"{users[0].name} reads it"
            nodes.append(users[0])

    def _goes_channel_by_channel(self, node: fx.Node) -> bool:
        """Whether a node treats all channels alike and each on its own."""
        if len(node.all_input_nodes) != 1:
            return False
        operation = self.operations[node]
        if operation.kind == "identity":
            return True
        if operation.kind == "activation":
            module = self.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
            return not isinstance(module, nn.PReLU) or module.num_parameters == 1
        return operation_name(self.graph_module, node) in _POOLS
