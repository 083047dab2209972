"""Arithmetic, comparisons and conversions, element by element."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import fx

from depth_distill.loading.onnx_importer.builder import GraphBuilder, converts
from depth_distill.loading.onnx_importer.files import TORCH_TYPES
from depth_distill.loading.onnx_importer.nodes import Node

_BINARY: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}
_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Erf": torch.erf,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}
_FLOATS = {TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16}
_DTYPES = {**TORCH_TYPES, TensorProto.BFLOAT16: torch.bfloat16}


@converts(*_BINARY)
def binary(node: Node, build: GraphBuilder) -> fx.Node:
    """Two operands; a constant with one value is a number, as in a traced network."""
    first, second = build.operand(node, 0), build.operand(node, 1)
    function = _BINARY[node.operator]
    if not isinstance(first, fx.Node) and function not in (operator.add, operator.sub, operator.mul):
        first = build.value(node, 0)
    return build.call(function, first, second)


@converts("Div")
def divide(node: Node, build: GraphBuilder) -> fx.Node:
    """Integers are divided towards zero."""
    first, second = build.operand(node, 0), build.operand(node, 1)
    dtype = next(build.dtype(each) for each in (first, second) if isinstance(each, fx.Node))
    if dtype.is_floating_point:
        return build.call(operator.truediv, first, second)
    return build.call(torch.div, build.value(node, 0), second, rounding_mode="trunc")


@converts("Mod")
def modulo(node: Node, build: GraphBuilder) -> fx.Node:
    """With the sign of the divisor, or with ``fmod`` that of the dividend."""
    function = torch.fmod if node.attributes.get("fmod", 0) else torch.remainder
    return build.call(function, build.value(node, 0), build.operand(node, 1))


@converts("Pow")
def power(node: Node, build: GraphBuilder) -> fx.Node:
    """A power; the result has the type of the base."""
    base, exponent = build.operand(node, 0), build.operand(node, 1)
    if not isinstance(base, fx.Node) and not isinstance(exponent, fx.Node):
        base = build.value(node, 0)
    result = build.call(torch.pow, base, exponent)
    wanted = build.dtype(base) if isinstance(base, fx.Node) else build.dtype(result)
    return result if build.dtype(result) == wanted else build.method("type", result, wanted)


@converts(*_UNARY)
def unary(node: Node, build: GraphBuilder) -> fx.Node:
    """One operand."""
    return build.call(_UNARY[node.operator], build.value(node))


@converts("Sum", "Mean")
def total(node: Node, build: GraphBuilder) -> fx.Node:
    """Any number of operands, added one by one."""
    result = build.value(node, 0)
    for position in range(1, len(node.inputs)):
        result = build.call(operator.add, result, build.operand(node, position))
    count = len(node.inputs)
    return result if node.operator == "Sum" or count == 1 else build.call(operator.truediv, result, float(count))


@converts("Max", "Min")
def extremum(node: Node, build: GraphBuilder) -> fx.Node:
    """Any number of operands; a number is a limit."""
    is_max = node.operator == "Max"
    operands = [build.operand(node, position) for position in range(len(node.inputs))]
    tensors = [each for each in operands if isinstance(each, fx.Node)]
    result = tensors[0]
    for each in tensors[1:]:
        result = build.call(torch.maximum if is_max else torch.minimum, result, each)
    for limit in [each for each in operands if not isinstance(each, fx.Node)]:
        result = build.call(torch.clamp, result, limit) if is_max else build.call(torch.clamp, result, None, limit)
    return result


@converts("Where")
def where(node: Node, build: GraphBuilder) -> fx.Node:
    """A choice between two tensors."""
    return build.call(torch.where, *(build.value(node, position) for position in range(3)))


@converts("Cast", "CastLike")
def cast(node: Node, build: GraphBuilder) -> fx.Node:
    """Nothing where the type stays; ``to`` where every value stays, otherwise ``type``."""
    source = build.value(node)
    if node.operator == "CastLike":
        name = node.inputs[1]
        known = build.constants.get(name)
        dtype = build.dtype(build.tensors[name]) if known is None else torch.from_numpy(np.zeros(0, known.dtype)).dtype
    elif node.attributes["to"] in _DTYPES:
        dtype = _DTYPES[node.attributes["to"]]
    else:
        raise build.refusal(node, f"it casts to {onnx.TensorProto.DataType.Name(node.attributes['to'])}")
    if dtype == build.dtype(source):
        return source
    return build.method("to" if dtype.is_floating_point else "type", source, dtype)


@converts("Identity", "Dropout")
def identity(node: Node, build: GraphBuilder) -> fx.Node:
    """Nothing: the tensor itself."""
    if node.operator == "Dropout" and build.is_constant(node, 2) and bool(build.constants[node.inputs[2]]):
        raise build.refusal(node, "it is in training mode: export the network in eval mode")
    return build.value(node)


@converts("DequantizeLinear")
def dequantize(node: Node, build: GraphBuilder) -> fx.Node:
    """Codes that the network is given, as real numbers."""
    scale = build.constant(node, 1, "scale")
    zero_point = build.constant(node, 2, "zero point") if build.has(node, 2) else np.zeros((), np.int64)
    if scale.size != 1 or zero_point.size != 1:
        raise build.refusal(node, "it has several scales, expected one: only weights have one per channel")
    real = build.method("to", build.value(node), torch.float32)
    shifted = build.call(operator.sub, real, float(zero_point.item())) if zero_point.item() else real
    return build.call(operator.mul, shifted, float(scale.item()))
