"""The scales of a QDQ file as data for the manifest, and as an AIMET encodings file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


def scales(int8_onnx: Path) -> dict[str, dict[str, Any]]:
    """Scale, zero point and dtype of every quantized tensor, by its name in the float file.

    Args:
        int8_onnx: QDQ file from ``export_qdq``.

    Returns:
        Entries by tensor name; ``kind`` is ``activation``, ``weight`` or ``bias``.
    """
    graph = onnx.load(int8_onnx).graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    weights = {
        node.input[position]: f"{node.name}.{role}"
        for node in graph.node
        for position, role in ((1, "weight"), (2, "bias"))
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > position
    }
    pixels = {each.name for each in graph.input if each.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    outputs = {each.name for each in graph.output}
    # In the QDQ file an output is written by its DequantizeLinear, in the float file by the operator.
    named = {node.input[0]: node.output[0] for node in graph.node if outputs.intersection(node.output)}
    found: dict[str, dict[str, Any]] = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            name = named.get(node.output[0], node.input[0])
            found.setdefault(name, _entry("activation", stored, node))
        elif node.op_type == "DequantizeLinear" and node.output[0] in weights:
            name = weights[node.output[0]]
            found[name] = _entry(name.rpartition(".")[2], stored, node)
        elif node.op_type == "DequantizeLinear" and node.input[0] in pixels:
            found[node.input[0]] = _entry("activation", stored, node)
    return found


def aimet_encodings(int8_onnx: Path) -> dict[str, Any]:
    """The scales in the format of AIMET's encodings files, version 0.6.1, which QNN's converters also read.

    Offsets follow AIMET: ``real = (code + offset) * scale`` with codes from 0, so that a symmetric int8 tensor has the
    offset -128. As in AIMET, biases are left to the tool chain.

    Args:
        int8_onnx: QDQ file from ``export_qdq``.
    """
    activations: dict[str, list[dict[str, Any]]] = {}
    parameters: dict[str, list[dict[str, Any]]] = {}
    for name, entry in scales(int8_onnx).items():
        limits = np.iinfo(entry["dtype"])
        rows = [
            {
                "bitwidth": limits.bits,
                "dtype": "int",
                "is_symmetric": str(bool(limits.min < 0 and zero_point == 0)),
                "min": float((limits.min - zero_point) * scale),
                "max": float((limits.max - zero_point) * scale),
                "offset": int(limits.min - zero_point),
                "scale": float(scale),
            }
            for scale, zero_point in zip(np.ravel(entry["scale"]), np.ravel(entry["zero_point"]), strict=True)
        ]
        if entry["kind"] == "activation":
            activations[name] = rows
        elif entry["kind"] == "weight":
            parameters[name] = rows
    return {"version": "0.6.1", "activation_encodings": activations, "param_encodings": parameters}


def _entry(kind: str, stored: dict[str, np.ndarray], node: onnx.NodeProto) -> dict[str, Any]:
    scale, zero_point = stored[node.input[1]], stored[node.input[2]]
    return {
        "kind": kind,
        "dtype": str(zero_point.dtype),
        "scale": scale.tolist(),
        "zero_point": zero_point.tolist(),
    }
