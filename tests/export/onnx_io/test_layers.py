"""What the layers of a file are, and how their outputs are rounded."""

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


def codes(stored="", computed="", zero_point=""):
    model = onnx.parser.parse_model(GRAPH.format(stored=stored, computed=computed, zero_point=zero_point))
    (layer,) = [each for each in layers_of(model) if each.op == "Sqrt"]
    assert layer.tensor == "y"
    assert layer.step == (None if layer.codes is None else layer.codes.scale)
    return layer.codes


def test_codes_are_those_of_the_pair():
    assert codes(", int8 z = {-3}", zero_point=", z") == QuantParams(0.5, -3, "int8")
    assert codes() == QuantParams(0.5, 0, "uint8")  # ONNX's default


def test_what_is_computed_is_not_guessed_at():
    assert codes(computed="z = Constant<value = uint8 {100}>()", zero_point=", z") is None
