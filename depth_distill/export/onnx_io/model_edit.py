"""New constants in an ONNX model, and nodes taken out of it, without a change of what else it holds."""

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

from depth_distill.errors import ConfigError
from depth_distill.loading.onnx_importer.files import free_name, read_in


class ModelEdit:
    """A model that is being changed; :meth:`finish` gives the result.

    Args:
        model: the model; it belongs to the edit from now on.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._nodes = [_copy(node) for node in model.graph.node]
        self._writers = {name: node for node in self._nodes for name in node.output if name}
        self._reads = Counter(read_in(model.graph))
        self._stored = {each.name: each for each in model.graph.initializer}
        self._taken = {*self._writers, *self._reads, *self._stored, *(each.name for each in model.graph.input)}
        self._unread = {node.output[0] for node in self._nodes if not self._is_read(node)}  # these stay

    def writer(self, tensor: str) -> onnx.NodeProto:
        """The node that writes a tensor.

        Raises:
            ConfigError: it lies in a branch of an If.
        """
        if tensor not in self._writers:
            raise ConfigError(f"{tensor!r} is written in a branch of an If, which cannot be written back")
        return self._writers[tensor]

    def is_computed(self, tensor: str) -> bool:
        """Whether a node writes a tensor."""
        return tensor in self._writers

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Shape of an initializer; None for any other tensor."""
        return tuple(self._stored[tensor].dims) if tensor in self._stored else None

    def set_input(self, node: onnx.NodeProto, position: int, value: np.ndarray, role: str) -> None:
        """Give a node a new constant: in place of the old one where no other node reads that."""
        old = node.input[position] if len(node.input) > position else ""
        if old in self._stored and self._reads[old] == 1:
            kind = helper.tensor_dtype_to_np_dtype(self._stored[old].data_type)
            self._stored[old].CopyFrom(numpy_helper.from_array(value.astype(kind), old))
            return
        name = self.store(value, _constant_name(node, role))
        while len(node.input) <= position:
            node.input.append("")
        node.input[position] = name
        self._reads[old] -= 1
        self._reads[name] += 1

    def store(self, value: np.ndarray, wanted: str) -> str:
        """Add an initializer, and return its name."""
        name = free_name(wanted, self._taken)
        self._taken.add(name)
        graph = self._model.graph
        graph.initializer.append(numpy_helper.from_array(value, name))
        self._stored[name] = graph.initializer[-1]
        if self._model.ir_version < 4:  # where initializers have to be inputs as well
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
        return name

    def add_bias(self, node: onnx.NodeProto, bias: np.ndarray) -> None:
        """Put an Add behind a node."""
        written = node.output[0]
        node.output[0] = f"{written}_product"
        constant = self.store(bias, _constant_name(node, "bias"))
        added = helper.make_node("Add", [node.output[0], constant], [written], f"{node.name or written}_bias")
        self._nodes.insert(self._place(node) + 1, added)
        self._writers |= {node.output[0]: node, written: added}
        self._reads.update(added.input)

    def between(self, source: str, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that make ``tensor`` of ``source`` and of constants, in order.

        Raises:
            ConfigError: they lie in a branch of an If.
        """
        node = self.writer(tensor)
        if source in node.input:
            return [node]
        for name in node.input:
            if self.is_computed(name) and (found := self.between(source, name)):
                return [*found, node]
        return []

    def remove(self, nodes: list[onnx.NodeProto], source: str) -> None:
        """Leave out nodes that make one tensor of ``source``: the node that writes ``source`` writes that tensor."""
        written, before = nodes[-1].output[0], self.writer(source)
        before.output[list(before.output).index(source)] = written
        self._drop(nodes)
        self._writers[written] = before

    def become_convolution(
        self, nodes: list[onnx.NodeProto], source: str, name: str, weight: np.ndarray, bias: np.ndarray
    ) -> None:
        """Replace nodes that make one tensor of ``source`` by a depthwise convolution."""
        inputs = [source, self.store(weight, f"{name}.weight"), self.store(bias, f"{name}.bias")]
        written = nodes[-1].output[0]
        made = helper.make_node("Conv", inputs, [written], name, group=len(weight), kernel_shape=weight.shape[2:])
        self._nodes.insert(self._place(nodes[-1]), made)
        self._reads.update(inputs)
        self._drop(nodes)
        self._writers[written] = made

    def finish(self) -> onnx.ModelProto:
        """The model without nodes and initializers that nothing reads any more."""
        while dead := [each for each in self._nodes if not self._is_read(each) and each.output[0] not in self._unread]:
            self._drop(dead)
        graph = self._model.graph
        del graph.node[:]
        graph.node.extend(self._nodes)
        read = set(read_in(graph))
        unused = {each.name for each in graph.initializer} - read
        for owners in (graph.initializer, graph.input):
            for place in reversed([place for place, each in enumerate(owners) if each.name in unused]):
                del owners[place]
        known = {name for node in graph.node for name in node.output} | read
        for place in reversed([place for place, each in enumerate(graph.value_info) if each.name not in known]):
            del graph.value_info[place]
        return self._model

    def _is_read(self, node: onnx.NodeProto) -> bool:
        return any(self._reads[name] > 0 for name in node.output)

    def _place(self, node: onnx.NodeProto) -> int:
        return next(place for place, each in enumerate(self._nodes) if each is node)

    def _drop(self, nodes: list[onnx.NodeProto]) -> None:
        gone = {id(node) for node in nodes}
        self._nodes = [node for node in self._nodes if id(node) not in gone]
        for node in nodes:
            self._reads.subtract(name for name in node.input if name)
            for name in node.output:
                self._writers.pop(name, None)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _constant_name(node: onnx.NodeProto, role: str) -> str:
    """``conv1.bias`` beside ``conv1.weight``, otherwise after the node."""
    if len(node.input) > 1 and node.input[1].endswith(".weight"):
        return f"{node.input[1].removesuffix('.weight')}.{role}"
    return f"{node.name or node.output[0]}.{role}"
