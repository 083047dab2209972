"""An ONNX file as a tool chain computes it that substitutes operators, where ONNX has an operator for that."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from depth_distill.errors import ConfigError
from depth_distill.loading.onnx_importer.files import opset_of
from depth_distill.quantization.target.substitutions import ITSELF, UNCONFIRMED

_WRITTEN: Mapping[tuple[str, str], tuple[str, Mapping[str, float]]] = {
    ("Sigmoid", "hard_sigmoid"): ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    ("Sigmoid", "relu6_sigmoid"): ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    ("HardSigmoid", "default_attributes"): ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    ("Tanh", "hard_tanh"): ("Clip", {"min": -1.0, "max": 1.0}),
    ("Softplus", "relu"): ("Relu", {}),
    ("Elu", "relu"): ("Relu", {}),
    ("HardSwish", "relu"): ("Relu", {}),
}
_CLIP_HAS_INPUTS = 11  # opset


def unwritable(substitutions: Mapping[str, str]) -> str | None:
    """Why no file can be written that computes this; None if one can."""
    for operator, by in substitutions.items():
        if by not in (ITSELF, UNCONFIRMED) and (operator, by) not in _WRITTEN:
            return f"it computes {operator} as {by}, for which ONNX has no operator"
    return None


def substitute_operators(model: onnx.ModelProto, substitutions: Mapping[str, str]) -> onnx.ModelProto:
    """A copy in which each operator is what is computed in its place; names of nodes and tensors stay.

    Args:
        model: a float model.
        substitutions: see :data:`~depth_distill.quantization.target.substitutions.SUBSTITUTION_NAMES`. Where
            ``Swish`` is ``no``, the Sigmoid of an ``x * Sigmoid(x)`` stays.

    Raises:
        ConfigError: see :func:`unwritable`.
    """
    reason = unwritable(substitutions)
    if reason is not None:
        raise ConfigError(f"the file cannot be written as the target computes it: {reason}")
    model = copy.deepcopy(model)
    for node in model.graph.node:
        by = substitutions.get(node.op_type, UNCONFIRMED)
        if by in (ITSELF, UNCONFIRMED) or node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Sigmoid" and substitutions.get("Swish") == ITSELF and _is_gate(model, node):
            continue
        _rewrite(model, node, *_WRITTEN[node.op_type, by])
    return model


def _is_gate(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether a node computes the ``f(x)`` of ``x * f(x)``, and nothing else."""
    readers = [each for each in model.graph.node if node.output[0] in each.input]
    product = {node.input[0], node.output[0]}
    return len(readers) == 1 and readers[0].op_type == "Mul" and set(readers[0].input) == product


def _rewrite(model: onnx.ModelProto, node: onnx.NodeProto, operator: str, attributes: Mapping[str, Any]) -> None:
    node.op_type = operator
    del node.attribute[:]
    if operator == "Clip" and opset_of(model) >= _CLIP_HAS_INPUTS:
        for name, value in attributes.items():
            tensor = f"{node.output[0]}.{name}"
            model.graph.initializer.append(numpy_helper.from_array(np.float32(value), tensor))
            node.input.append(tensor)
    else:
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
