"""Write a model with an older version of ONNX's operator set."""

import copy

import onnx
from onnx import helper, inliner, numpy_helper

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.onnx_graph import OnnxGraph, is_of_onnx
from depth_distill.export.onnx_io.opsets.changes import OLDEST, REMEDIES, REWRITES
from depth_distill.export.onnx_io.opsets.rewriting import InexpressibleError, OpsetError, Rewriting, named
from depth_distill.loading.onnx_importer.files import opset_of

_LEAVE_OUT = "leave it out of the network, or to the host"


def lower(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy that computes the same with an older version of the operator set.

    The versions are gone back one by one, and each operator that changed in one is rewritten, so each step is as small
    as ONNX's own list of changes. Nodes keep their names and outputs; of several nodes in place of one, the last does.
    The IR version is the oldest that has the opset, because old runtimes reject newer ones.

    Args:
        model: valid model with static shapes.
        opset: version to write, 9 or newer; no newer than that of the model.

    Raises:
        OpsetError: a node has no form in that version; the message has the node, the reason, and what to do.
        ConfigError: the version is older than 9, or the model has branches or loops.
    """
    if opset < OLDEST:
        raise ConfigError(f"opset: received {opset}, expected {OLDEST} or newer")
    model = inliner.inline_local_functions(model) if model.functions else copy.deepcopy(model)
    for node in model.graph.node:
        if any(each.type in (each.GRAPH, each.GRAPHS) for each in node.attribute):
            raise ConfigError(f"opset {opset}: {named(node)} has a graph of its own; export for one fixed path")
    for version in range(opset_of(model), opset, -1):
        _undo(model, version, opset)
    _require_types(model, opset)
    model.ir_version = oldest_ir_version(model)
    return model


def oldest_ir_version(model: onnx.ModelProto) -> int:
    """The oldest version of the file format that has the operator set of a model; other domains have no say in it."""
    return int(helper.find_min_ir_version_for([each for each in model.opset_import if each.domain in ("", "ai.onnx")]))


def _undo(model: onnx.ModelProto, version: int, opset: int) -> None:
    """Write each node of ``version`` as of the version before, in place."""
    rewriting: Rewriting | None = None
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        rewrite = REWRITES.get(version, {}).get(node.op_type) if is_of_onnx(node) else None
        if rewrite is None:
            if is_of_onnx(node) and _schema(node, version).since_version == version:
                _require_older(node, version, opset)
            nodes.append(node)
            continue
        rewriting = rewriting or Rewriting(model)
        try:
            nodes.extend(rewrite(node, rewriting))
        except InexpressibleError as error:
            raise OpsetError(
                f"{named(node)}: opset {opset} cannot express it, it needs {version}: {error.reason}; {error.remedy}",
                version,
            ) from error
    new = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(new)
    if rewriting is not None:
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in rewriting.added.items())
    del model.graph.value_info[:]
    for each in model.opset_import:
        if each.domain in ("", "ai.onnx"):
            each.domain, each.version = "", version - 1


def _schema(node: onnx.NodeProto, version: int) -> onnx.defs.OpSchema:
    """The definition of a node's operator in a version of ONNX's operator set."""
    try:
        return onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError as error:
        raise ConfigError(f"{named(node)}: opset {version} of ONNX has no operator of this name") from error


def _require_older(node: onnx.NodeProto, version: int, opset: int) -> None:
    """Require a version of the operator before ``version``."""
    try:
        if not onnx.defs.get_schema(node.op_type, version - 1).deprecated:
            return
    except onnx.defs.SchemaError:
        pass
    raise OpsetError(
        f"{named(node)}: opset {opset} has no {node.op_type}, it needs {version}; "
        f"{REMEDIES.get(node.op_type, _LEAVE_OUT)}",
        version,
    )


def _require_types(model: onnx.ModelProto, opset: int) -> None:
    """Require tensors of types that the operators of this version take."""
    graph = OnnxGraph(model)
    for node in filter(is_of_onnx, graph.nodes):
        schema = _schema(node, opset)
        allowed = {each.type_param_str: set(each.allowed_type_strs) for each in schema.type_constraints}
        for position, name in enumerate(node.input):
            formal = schema.inputs[min(position, len(schema.inputs) - 1)]
            dtype = graph.dtype(name) if name else None
            if dtype is None:
                continue
            words = {f"tensor({_ONNX_NAMES.get(dtype, dtype)})"}
            if not words & allowed.get(formal.type_str, {formal.type_str}):
                raise OpsetError(
                    f"{named(node)}: opset {opset} has it for other types than {dtype} ({name}); "
                    "compute it in float32, or write a newer opset",
                    _newer(node.op_type, opset),
                )


def _newer(operator: str, opset: int) -> int:
    """The next version in which an operator changed."""
    versions = [
        each.since_version
        for each in onnx.defs.get_all_schemas_with_history()
        if each.domain == "" and each.name == operator and each.since_version > opset
    ]
    return min(versions, default=opset + 1)


_ONNX_NAMES = {"float32": "float", "float64": "double"}
