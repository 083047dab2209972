"""The layers of a file, and the quantization parameters of their outputs."""

import onnx

from depth_distill.export.onnx_io.layers import layers_of
from depth_distill.export.onnx_io.quant_params import QuantParams

GRAPH = """
    <ir_version: 9, opset_import: ["": 19]>
    graph (float[1, 2] x) => (float[1, 2] y)
    <float scale = {{0.5}} {stored}>
    {{
        {computed}
        a = Sqrt(x)
        q = QuantizeLinear(a, scale{zero_point})
        y = DequantizeLinear(q, scale{zero_point})
    }}
"""


def quant_params(stored="", computed="", zero_point=""):
    model = onnx.parser.parse_model(GRAPH.format(stored=stored, computed=computed, zero_point=zero_point))
    (layer,) = [each for each in layers_of(model) if each.op == "Sqrt"]
    assert layer.tensor == "y"
    assert layer.step == (None if layer.quant_params is None else layer.quant_params.scale)
    return layer.quant_params


def test_quantization_parameters_are_those_of_the_pair():
    assert quant_params(", int8 z = {-3}", zero_point=", z") == QuantParams(0.5, -3, "int8")
    assert quant_params() == QuantParams(0.5, 0, "uint8")  # ONNX's default


def test_a_computed_zero_point_is_unknown():
    assert quant_params(computed="z = Constant<value = uint8 {100}>()", zero_point=", z") is None
