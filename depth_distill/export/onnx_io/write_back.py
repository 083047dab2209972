"""New weights for an imported ONNX file: the same nodes, names, inputs, outputs and opset."""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.model_edit import ModelEdit
from depth_distill.loading.onnx_importer import ImportedOnnx, plain

_AFFINE = "_affine"  # the convolution that ``fold`` makes of a batch norm which no layer precedes
_LAYERS = (_ConvNd, nn.Linear)
_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def write_back(imported: ImportedOnnx, graph: fx.GraphModule) -> onnx.ModelProto:
    """The imported file with the weights and biases of ``graph``.

    Nodes, names, inputs, outputs, opset and metadata stay. A batch norm that ``fold`` merged into a layer disappears,
    and the layer writes its tensor; one that no layer precedes becomes the depthwise convolution ``<name>_affine``. A
    layer without bias gains one where it needs it: a MatMul gets an Add behind it. What several nodes share is split
    where their values differ now, and initializers that no node reads are removed. Where the import stripped Q/DQ pairs
    or inlined functions, the file comes back without them.

    Args:
        imported: the file, from :func:`~depth_distill.loading.onnx_importer.import_onnx`.
        graph: ``imported.graph`` after passes that change values only: fold, equalize, adaround,
            reconstruct_blocks, bias_correct.

    Raises:
        ConfigError: the structure of ``graph`` is another one; the message names the first layer that differs.
    """
    _check_structure(imported, graph)
    edit = ModelEdit(plain(imported.model)[0])
    modules = dict(imported.graph.named_modules())
    for path, tensor in imported.written.items():
        if isinstance(modules[path], _LAYERS):
            _write_layer(edit, path, tensor, modules[path], graph.get_submodule(path))
    changed = dict(graph.named_modules())
    for path, tensor in imported.written.items():
        if isinstance(modules[path], _BatchNorm) and isinstance(changed[path], nn.Identity):
            affine = changed.get(f"{path}{_AFFINE}")
            source = _source(imported, path)
            nodes = edit.between(source, tensor)
            if affine is None:
                edit.remove(nodes, source)
            else:
                assert isinstance(affine, nn.Conv2d)
                assert affine.bias is not None
                name = f"{imported.layers[path]}{_AFFINE}"
                edit.become_convolution(nodes, source, name, _array(affine.weight), _array(affine.bias))
    return edit.finish()


def _source(imported: ImportedOnnx, path: str) -> str:
    """The tensor of the file that a module reads."""
    node = next(each for each in imported.graph.graph.nodes if each.op == "call_module" and each.target == path)
    return imported.tensors[node.all_input_nodes[0].name]


def _write_layer(edit: ModelEdit, path: str, tensor: str, before: nn.Module, after: nn.Module) -> None:
    """Write weight and bias of a layer where they changed."""
    old, new = _array(before.weight), _array(after.weight)  # type: ignore[arg-type]
    old_bias, new_bias = (None if each.bias is None else _array(each.bias) for each in (before, after))  # type: ignore[arg-type]
    node, added = _nodes_of_layer(edit, path, tensor)
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if not np.array_equal(old, new):
        if node.op_type == "Gemm":
            new = new / np.asarray(attributes.get("alpha", 1.0), new.dtype)
        is_transposed = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes.get("transB", 0))
        edit.set_input(node, 1, np.ascontiguousarray(new.T) if is_transposed else new, "weight")
    if new_bias is None or (old_bias is not None and np.array_equal(old_bias, new_bias)):
        return
    if added is not None:
        position = 1 if added.input[0] in node.output else 0
        shape = edit.shape(added.input[position]) or (-1,) + (1,) * (new.ndim - 2)
        edit.set_input(added, position, new_bias.reshape(shape), "bias")
    elif node.op_type == "MatMul":
        edit.add_bias(node, new_bias)
    else:
        if node.op_type == "Gemm":
            beta = attributes.get("beta", 1.0)
            if beta == 0:
                _set_attribute(node, "beta", 1.0)
            new_bias = new_bias / np.asarray(beta or 1.0, new_bias.dtype)
            stored = edit.shape(node.input[2]) if len(node.input) > 2 else None
            new_bias = new_bias.reshape(stored) if stored and np.prod(stored) == new_bias.size else new_bias
        edit.set_input(node, 2, new_bias, "bias")


def _nodes_of_layer(edit: ModelEdit, path: str, tensor: str) -> tuple[onnx.NodeProto, onnx.NodeProto | None]:
    """The node of a layer, and the Add behind it that has its bias, if there is one."""
    node = edit.writer(tensor)
    if node.op_type in _OPERATORS:
        return node, None
    for name in node.input:
        if edit.is_computed(name) and edit.writer(name).op_type in _OPERATORS:
            return edit.writer(name), node
    raise ConfigError(f"{path}: no layer of the file writes {tensor!r}")


def _check_structure(imported: ImportedOnnx, graph: fx.GraphModule) -> None:
    """Refuse a graph that differs from the imported one in more than values of layers and folded batch norms."""
    before, after = imported.graph, graph
    norms = {name for name, module in before.named_modules() if isinstance(module, _BatchNorm)}
    through: dict[str, str] = {}
    nodes = []
    for node in after.graph.nodes:
        if node.op == "call_module" and str(node.target).removesuffix(_AFFINE) in norms - {str(node.target)}:
            through[node.name] = node.all_input_nodes[0].name
        else:
            nodes.append(node)
    for old, new in zip(before.graph.nodes, nodes, strict=False):
        if _form(old, {}) != _form(new, through):
            raise ConfigError(
                f"{_describe(old)}: expected values to change only, but the graph has {_describe(new)} there"
            )
    if len(nodes) != len(before.graph.nodes):
        raise ConfigError(f"the graph has {len(nodes)} operators, expected the {len(before.graph.nodes)} of the file")
    for path in imported.written:
        _check_module(path, before.get_submodule(path), after.get_submodule(path))
    layers = {path for path in imported.written if isinstance(before.get_submodule(path), (*_LAYERS, _BatchNorm))}
    old_values, new_values = before.state_dict(), after.state_dict()
    for name, value in old_values.items():
        if name.rpartition(".")[0] in layers:
            continue
        if name not in new_values or not torch.equal(value.cpu(), new_values[name].cpu()):
            raise ConfigError(f"{name} changed, expected weights and biases of layers only")


def _check_module(path: str, before: nn.Module, after: nn.Module) -> None:
    if isinstance(before, _BatchNorm) and isinstance(after, nn.Identity):
        return
    if type(before) is not type(after):
        raise ConfigError(
            f"{path}: expected a {type(before).__name__} as in the file, received a {type(after).__name__}"
        )
    if isinstance(before, _BatchNorm):
        mine, theirs = before.state_dict(), after.state_dict()
        if not all(torch.equal(value.cpu(), theirs[name].cpu()) for name, value in mine.items()):
            raise ConfigError(f"{path}: the values of a batch norm changed; fold it first")
    if not isinstance(before, _LAYERS):
        return
    for one, other in ((_settings(before), _settings(after)), (before.weight.shape, after.weight.shape)):
        if one != other:
            raise ConfigError(f"{path}: expected {one} as in the file, received {other}")
    if before.bias is not None and after.bias is None:
        raise ConfigError(f"{path}: expected a bias as in the file, received none")


def _settings(layer: nn.Module) -> tuple[Any, ...]:
    if isinstance(layer, nn.Linear):
        return ()
    assert isinstance(layer, _ConvNd)
    extra = layer.output_padding if isinstance(layer, _ConvTransposeNd) else ()
    return (layer.stride, layer.padding, layer.dilation, layer.groups, extra)


def _form(node: fx.Node, through: dict[str, str]) -> tuple[Any, ...]:
    """What a node does and reads, with the folded batch norms taken out."""

    def name(source: fx.Node) -> str:
        return through.get(source.name, source.name)

    target = None if node.op in ("placeholder", "output") else node.target
    return node.op, target, repr(fx.node.map_arg((node.args, node.kwargs), name))


def _describe(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else f"{node.name} ({node.op})"


def _set_attribute(node: onnx.NodeProto, name: str, value: float) -> None:
    for attribute in [each for each in node.attribute if each.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))


def _array(value: Tensor) -> np.ndarray:
    return np.array(value.detach().cpu().numpy())
