"""The torch.fx graph that a file becomes, written node by node."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torch.func import functional_call

from depth_distill.errors import ConfigError, first_line
from depth_distill.loading.onnx_importer.constants import evaluate
from depth_distill.loading.onnx_importer.files import MOST_VALUES, opset_of
from depth_distill.loading.onnx_importer.naming import ModulePaths, argument_name, scope_of, wanted_path
from depth_distill.loading.onnx_importer.nodes import Node, nodes_of

Written = fx.Node | Sequence[fx.Node | None]
Converter = Callable[[Node, "GraphBuilder"], Written]
_CONVERTERS: dict[str, Converter] = {}
_CONSTANTS = "constants"


def converts(*operators: str) -> Callable[[Converter], Converter]:
    """Register a function that writes an operator into a graph and returns what stands for its outputs."""

    def register(converter: Converter) -> Converter:
        for operator in operators:
            _CONVERTERS[operator] = converter
        return converter

    return register


class GraphBuilder:
    """A graph under construction.

    Tensors that do not depend on an input are constants, and nodes that read only constants are computed. The shape of
    every other tensor is found by running the new node on tensors without storage: once with the batch of the file, and
    once with twice that batch, which shows along which axis a tensor has its images.

    Args:
        file: the file, for messages.
        model: its content, without local functions.
    """

    def __init__(self, file: Path, model: onnx.ModelProto) -> None:
        self.file = file
        self.opset = opset_of(model)
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.tensors: dict[str, fx.Node] = {}
        """The node that computes each tensor of the file."""
        self.constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self.layers: dict[str, str] = {}
        """Label of the file's node by path of the module that it became."""
        self.written: dict[str, str] = {}
        """First tensor that this node writes, by path of the module."""
        self._opsets = list(model.opset_import)
        self._paths = ModulePaths([])
        self._stored: dict[str, fx.Node] = {}
        self._shaped: dict[fx.Node, tuple[Any, Any]] = {}
        self._node: Node | None = None

    def add_input(self, name: str, shape: Sequence[int], dtype: torch.dtype, has_batch: bool) -> None:
        """Write a placeholder."""
        node = self.graph.placeholder(argument_name(name))
        larger = [2 * shape[0], *shape[1:]] if has_batch else shape
        empty = [torch.empty(tuple(each), dtype=dtype, device="meta") for each in (shape, larger)]
        self._shaped[node] = (empty[0], empty[1])
        self.tensors[name] = node

    def without_constants(self, nodes: Sequence[Node]) -> list[Node]:
        """The nodes that depend on an input or on its shape; the others are computed.

        Raises:
            ConfigError: a node cannot be computed.
        """
        return [node for node in nodes if not self._compute(node)]

    def convert(self, nodes: Sequence[Node]) -> None:
        """Write the nodes of the file in order.

        Raises:
            ConfigError: there is no way to write an operator; the message names it, the node and the file.
        """
        self._paths = ModulePaths(nodes)
        self._convert(nodes)

    def _compute(self, node: Node) -> bool:
        """Compute a node that reads constants only."""
        if node.proto is None or _is_random(node) or any(name and name not in self.constants for name in node.inputs):
            return False
        if node.operator == "If":
            return False
        try:
            self.constants |= evaluate(node, self.constants, self._opsets)
        except ValueError as error:
            raise self.refusal(node, f"its constants cannot be computed: {error}") from error
        return True

    def _convert(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self._node = node
            if node.operator == "If":
                self._convert_branch(node)
                continue
            if node.operator in ("Shape", "Size") and node.inputs[0] in self.tensors:
                self.constants[node.outputs[0]] = self._shape_of(node)
                continue
            if self._compute(node):
                continue
            converter = _CONVERTERS.get(node.operator)
            if converter is None:
                raise self.refusal(node, "this operator cannot be imported")
            try:
                written = converter(node, self)
            except ConfigError:
                raise
            except Exception as error:  # settings that do not fit each other: whatever torch and NumPy raise
                raise self.refusal(node, f"it is damaged, or cannot be imported: {first_line(error)}") from error
            for name, value in zip(node.outputs, [written] if isinstance(written, fx.Node) else written, strict=False):
                if name and value is not None:
                    self.tensors[name] = value

    def finish(self, outputs: Sequence[str]) -> fx.GraphModule:
        """The graph that returns the tensors ``outputs``: one, or a tuple."""
        self._node = None
        returned = [self.tensors[name] if name in self.tensors else self.store(name) for name in outputs]
        self.graph.output(returned[0] if len(returned) == 1 else tuple(returned))
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph, "ImportedOnnx").eval()

    def refusal(self, node: Node, why: str) -> ConfigError:
        """The error of a node that cannot be imported."""
        return ConfigError(f"{self.file}: {node}: {why}")

    # What a node reads

    def has(self, node: Node, position: int) -> bool:
        """Whether an optional input is given."""
        return len(node.inputs) > position and bool(node.inputs[position])

    def value(self, node: Node, position: int = 0) -> fx.Node:
        """An input as a node of the graph; a constant is stored in the network."""
        name = node.inputs[position]
        if name not in self.tensors and name not in self.constants:
            raise self.refusal(node, f"it reads {name!r}, an optional output that cannot be imported")
        return self.tensors[name] if name in self.tensors else self.store(name)

    def operand(self, node: Node, position: int) -> fx.Node | float | int | bool:
        """An input of arithmetic: a single number where it is a constant with one value, as in a traced network."""
        constant = self.constants.get(node.inputs[position])
        if constant is not None and constant.size == 1:
            ranks = [len(self.shape(self.tensors[name])) for name in node.inputs if name in self.tensors]
            if constant.ndim <= max(ranks, default=0):
                return constant.reshape(()).item()
        return self.value(node, position)

    def is_constant(self, node: Node, position: int) -> bool:
        """Whether an input is given and does not depend on the inputs of the network."""
        return self.has(node, position) and node.inputs[position] in self.constants

    def constant(self, node: Node, position: int, what: str) -> np.ndarray:
        """An input that must be a constant.

        Raises:
            ConfigError: it depends on an input of the network.
        """
        if not self.is_constant(node, position):
            raise self.refusal(node, f"its {what} is computed by the network, expected a constant")
        return self.constants[node.inputs[position]]

    def setting(self, node: Node, position: int, name: str, what: str | None = None) -> np.ndarray | None:
        """A setting that is an input in newer operator sets and the attribute ``name`` in older ones."""
        if name in node.attributes:
            return np.asarray(node.attributes[name])
        return self.constant(node, position, what or name) if self.has(node, position) else None

    def parameter(self, node: Node, position: int, what: str) -> nn.Parameter:
        """A constant input as the parameter of a layer."""
        return as_parameter(self.constant(node, position, what))

    # What a node becomes

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> fx.Node:
        """Write a function call."""
        created = self.graph.call_function(function, arguments, options)
        return self._run(created, function, arguments, options)

    def method(self, name: str, *arguments: Any, **options: Any) -> fx.Node:
        """Write a call of a tensor's method."""
        created = self.graph.call_method(name, arguments, options)
        return self._run(created, getattr(Tensor, name), arguments, options)

    def module(self, module: nn.Module, source: fx.Node, node: Node, wanted: str | None = None) -> fx.Node:
        """Add a module named after ``node`` and write its call."""
        path = self._paths.take(node, wanted)
        module.eval()
        self._add(path, module)
        self.layers[path] = node.label
        self.written[path] = node.outputs[0]
        without_storage = {
            name: torch.empty_like(value, device="meta")
            for name, value in (*module.named_parameters(), *module.named_buffers())
        }
        created = self.graph.call_module(path, (source,))
        return self._run(created, lambda value: functional_call(module, without_storage, (value,)), (source,), {})

    def store(self, name: str) -> fx.Node:
        """A constant of the file as a buffer of the network."""
        if name not in self._stored:
            self._stored[name] = self.buffer(name, as_tensor(self.constants[name]))
        return self._stored[name]

    def buffer(self, name: str, value: Tensor) -> fx.Node:
        """A constant as a buffer of the network; a parameter stays one."""
        probe = Node("constant", f"{_CONSTANTS}.{name.replace('.', '_').replace('/', '_').strip('_')}", (), ())
        path = self._paths.take(probe, wanted_path(probe))
        around, _, attribute = path.rpartition(".")
        self._folder(around)
        owner = self.root.get_submodule(around)
        if isinstance(value, nn.Parameter):
            owner.register_parameter(attribute, value)
        else:
            owner.register_buffer(attribute, value)
        created = self.graph.get_attr(path)
        empty = torch.empty_like(value, device="meta")
        self._shaped[created] = (empty, empty)
        return created

    # Shapes

    def shape(self, value: fx.Node) -> tuple[int, ...]:
        """Shape of a tensor, for the batch of the file."""
        return tuple(self._shaped[value][0].shape)

    def dtype(self, value: fx.Node) -> torch.dtype:
        """Type of a tensor."""
        return self._shaped[value][0].dtype

    def batch_axis(self, value: fx.Node) -> int | None:
        """The axis along which the images of a batch lie; None if there is none, or the batch is fixed."""
        one, two = self._shaped[value]
        if two is None or len(one.shape) != len(two.shape):
            return None
        grown = [axis for axis, (first, second) in enumerate(zip(one.shape, two.shape, strict=True)) if first != second]
        return grown[0] if len(grown) == 1 else None

    def reshape(self, value: fx.Node, shape: Sequence[int]) -> fx.Node:
        """Write a reshape to ``shape``, which holds for the batch of the file; any other batch works as well."""
        before = self.shape(value)
        sizes = [int(size) for size in shape]
        axis = self.batch_axis(value)
        if tuple(sizes) == before:
            return value
        if axis is not None:
            ahead = math.prod(before[:axis])
            places = [place for place in range(len(sizes)) if math.prod(sizes[:place]) == ahead]
            if places:
                place = axis if axis in places else places[0]
                if place == axis == 0 and len(sizes) == 2 and sizes[0] == before[0] and len(before) > 2:
                    return self.call(torch.flatten, value, 1)
                sizes[place] = -1
        return self.call(torch.reshape, value, tuple(sizes))

    # Private

    def _run(self, created: fx.Node, function: Callable[..., Any], arguments: Any, options: Any) -> fx.Node:
        scope = scope_of(self._node) if self._node is not None else ""
        if scope and created.op != "call_module":
            created.meta["nn_module_stack"] = {scope: (scope, nn.Module)}

        def run(which: int) -> Any:
            given, named = fx.node.map_arg((arguments, options), lambda each: self._shaped[each][which])
            with torch.no_grad():
                return function(*given, **named)

        try:
            one = run(0)
        except Exception as error:  # whatever torch raises for shapes and types that do not fit
            assert self._node is not None
            raise self.refusal(self._node, f"torch cannot compute it: {first_line(error)}") from error
        if isinstance(one, Tensor) and one.numel() > MOST_VALUES and self._node is not None:
            raise self.refusal(self._node, f"it writes a tensor of {list(one.shape)}, more than {MOST_VALUES} values")
        two = None
        if all(self._shaped[source][1] is not None for source in created.all_input_nodes):
            try:
                two = run(1)
            except Exception:  # a shape of the file that holds for one batch only
                two = None
        self._shaped[created] = (one, two)
        return created

    def _add(self, path: str, module: nn.Module) -> None:
        around, _, name = path.rpartition(".")
        self._folder(around)
        self.root.get_submodule(around).add_module(name, module)

    def _folder(self, path: str) -> None:
        folder = self.root
        for part in path.split(".") if path else []:
            if part not in folder._modules:
                folder.add_module(part, nn.Module())
            folder = folder.get_submodule(part)

    def _shape_of(self, node: Node) -> np.ndarray:
        shape = self.shape(self.tensors[node.inputs[0]])
        if node.operator == "Size":
            return np.asarray(math.prod(shape), np.int64)
        return np.asarray(shape[node.attributes.get("start", 0) : node.attributes.get("end")], np.int64)

    def _convert_branch(self, node: Node) -> None:
        chosen = bool(self.constant(node, 0, "condition").item())
        branch: onnx.GraphProto = node.attributes["then_branch" if chosen else "else_branch"]
        self.constants |= {each.name: numpy_helper.to_array(each) for each in branch.initializer}
        self._convert(nodes_of(branch.node))
        for outer, inner in zip(node.outputs, branch.output, strict=True):
            if inner.name in self.tensors:
                self.tensors[outer] = self.tensors[inner.name]
            else:
                self.constants[outer] = self.constants[inner.name]


def as_tensor(value: np.ndarray) -> Tensor:
    """A constant of a file as a tensor of its own."""
    return torch.from_numpy(np.array(value))


def as_parameter(value: np.ndarray | Tensor) -> nn.Parameter:
    """A constant of a file as a trainable parameter of its own."""
    tensor = as_tensor(value) if isinstance(value, np.ndarray) else value.clone()
    return nn.Parameter(tensor.contiguous(), tensor.is_floating_point())


def _is_random(node: Node) -> bool:
    return node.operator.startswith("Random") or node.operator in ("Bernoulli", "Multinomial")
