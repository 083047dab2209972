"""The names that profiles may use are those of ONNX."""

import onnx.defs

from depth_distill.quantization.target.onnx_operators import ONNX_OPERATORS


def test_every_operator_of_onnx_can_be_named():
    assert {each.name for each in onnx.defs.get_all_schemas_with_history() if each.domain == ""} == ONNX_OPERATORS
